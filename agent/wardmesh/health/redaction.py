# SPDX-License-Identifier: Apache-2.0
"""Pure: takes secrets out of what leaves the host.

By name: whatever stands under a key such as token or password goes, with everything below it. By form:
credentials in addresses, Authorization headers, JSON web tokens, private keys in PEM, and every text that
could be a WireGuard key and is no public key of the fleet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

GONE = "<redacted>"

_WORDS = (
    r"token|passw(?:or)?d|passphrase|secret|credential|api-?_?key|private-?_?key|pre-?_?shared-?_?key|psk|cookie|"
    r"auth(?:orization)?|bearer|session"
)
_NAME = re.compile(
    rf"(?:{_WORDS}|(?<![a-z])(?:key|pass|user|users|username)$|(?-i:[a-z]Key)$|[-_.]key$)", re.IGNORECASE
)
# Names that match and are no secrets: public keys, settings of rotation, files.
_HARMLESS = re.compile(r"(?:public-?_?key|key-?_?rotation|key-?_?file|key-?_?since|matchkey)$", re.IGNORECASE)
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_USERINFO = re.compile(r"([a-z][a-z0-9+.-]*://)[^\s'\"]*@", re.IGNORECASE)  # up to the last @, in doubt
_HEADER = re.compile(r"(?im)\b((?:proxy-)?authorization|cookie|set-cookie)(['\"]?\s*[:=]).*$")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[^\s'\",]+")
_JWT = re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.?[\w-]*")
_KEY44 = re.compile(r"(?<![A-Za-z0-9+/=])[A-Za-z0-9+/]{43}=(?!=)")
# name = value, name: "value"; a quoted value goes as a whole.
_VALUE = r"(?P<value>\"(?:[^\"\\]|\\.)*\"?|'[^']*'?|[^\s,;'\"]+)"
_PAIR = re.compile(rf"(?i)(?P<name>[\w.-]*(?:{_WORDS})[\w.-]*)(?P<sign>['\"]?\s*[=:]\s*){_VALUE}")
_SAID = re.compile(rf"(?i)(?P<name>\b[\w.-]*(?:password|passphrase|secret|token|psk))(?P<sign>\s+){_VALUE}")
_OPTION = re.compile(r"(?i)(?<![\w-])(--?(?:pass|key|user)(?:=|\s+))(\"[^\"]*\"|'[^']*'|\S+)")


def is_secret(name: str) -> bool:
    """Does what stands under this name leave the host? In doubt it does not."""
    return bool(_NAME.search(name)) and not _HARMLESS.search(name)


class Redactor:
    """public_keys: texts of the form of a key that may stay."""

    def __init__(self, public_keys: Iterable[str] = ()) -> None:
        self._public = frozenset(public_keys)

    def text(self, text: str) -> str:
        """Free text, such as log lines."""
        text = _PEM.sub(GONE, text)
        text = _HEADER.sub(rf"\1\2 {GONE}", text)
        text = _BEARER.sub(rf"\1 {GONE}", text)
        text = _USERINFO.sub(rf"\1{GONE}@", text)
        text = _JWT.sub(GONE, text)
        text = _OPTION.sub(rf"\1{GONE}", text)
        text = _SAID.sub(self._pair, _PAIR.sub(self._pair, text))
        return _KEY44.sub(self._key, text)

    def document(self, value: Any, *, by_name: bool = True) -> Any:
        """Parsed JSON or YAML; the shape stays. by_name False: only what has the form of a secret goes."""
        if isinstance(value, Mapping):
            return {
                self.text(str(name)): self._below(str(name), item, by_name=by_name)
                for name, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.document(item, by_name=by_name) for item in value]
        return self.text(value) if isinstance(value, str) else value

    def _below(self, name: str, value: Any, *, by_name: bool) -> Any:
        if not by_name or not is_secret(name) or value is None or isinstance(value, bool):
            return self.document(value, by_name=by_name)
        # A member's key in the fleet map is its public one.
        return value if isinstance(value, str) and value in self._public else GONE

    def _pair(self, match: re.Match[str]) -> str:
        if not is_secret(match["name"]) or match["value"] in self._public:
            return match[0]
        return f"{match['name']}{match['sign']}{GONE}"

    def _key(self, match: re.Match[str]) -> str:
        return match[0] if match[0] in self._public else GONE
