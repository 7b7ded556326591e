# SPDX-License-Identifier: Apache-2.0
"""JSON as Go's encoding/json reads it: names in any case, null is zero, one wrong type rejects all."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
from collections.abc import Mapping
from typing import Any

from wardmesh.model.errors import WardmeshError
from wardmesh.model.fleetmap import Address, Network

LARGEST = 64 * 1024  # bytes of one value; a node with many labels and annotations has a few thousand


def reject(where: str, why: str) -> WardmeshError:
    """The error of a record that is not taken."""
    return WardmeshError("record skipped", where=where, why=why)


def read_object(data: bytes, where: str) -> Fields:
    """The fields of a JSON object; WardmeshError where it is none, or too large."""
    if len(data) > LARGEST:
        raise reject(where, f"{len(data)} bytes, at most {LARGEST}")
    try:
        found = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise reject(where, f"not JSON: {type(error).__name__}") from error
    return Fields(found, where)


class Fields:
    """An object's fields, asked for by type. where: named in errors."""

    def __init__(self, found: Any, where: str) -> None:
        if not isinstance(found, dict):
            raise reject(where, "not a JSON object")
        self._held: Mapping[str, Any] = {name.lower(): value for name, value in found.items()}
        self._where = where

    def raw(self, name: str) -> Any:
        """As it stands; None where it is missing."""
        return self._held.get(name.lower())

    def _wrong(self, name: str, wanted: str) -> WardmeshError:
        return reject(self._where, f"{name}: expected {wanted}")

    def text(self, name: str) -> str:
        """A string, "" where there is none."""
        value = self.raw(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._wrong(name, "a string")
        return value

    def number(self, name: str, bits: int) -> int:
        """An unsigned integer of so many bits, 0 where there is none."""
        value = self.raw(name)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << bits:
            raise self._wrong(name, f"an unsigned integer of {bits} bits")
        return value

    def flag(self, name: str) -> bool:
        """A boolean, False where there is none."""
        value = self.raw(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self._wrong(name, "a boolean")
        return value

    def texts(self, name: str) -> dict[str, str]:
        """A map of strings."""
        value = self.raw(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or any(not isinstance(item, str) for item in value.values()):
            raise self._wrong(name, "a map of strings")
        return dict(value)

    def objects(self, name: str) -> list[Fields]:
        """A list of objects."""
        value = self.raw(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(name, "a list")
        return [Fields(item, f"{self._where} {name}") for item in value]

    def inner(self, name: str) -> Fields:
        """An object in the object; empty where there is none."""
        value = self.raw(name)
        return Fields({} if value is None else value, f"{self._where} {name}")

    def address(self, name: str) -> Address | None:
        """An IP address, None for ""."""
        text = self.text(name)
        if not text:
            return None
        try:
            return ipaddress.ip_address(text)
        except ValueError as error:
            raise self._wrong(name, "an IP address") from error

    def network(self, name: str) -> Network | None:
        """{"IP", "Mask"} with the mask's bytes in base64, or the text of a prefix (newer writers)."""
        return self._network(name, self.raw(name))

    def network_list(self, name: str) -> list[Network | None]:
        """A list of such."""
        value = self.raw(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(name, "a list")
        return [self._network(name, item) for item in value]

    def _network(self, name: str, value: Any) -> Network | None:
        if value is None:
            return None
        if isinstance(value, str):
            try:
                return ipaddress.ip_network(value, strict=False) if value else None
            except ValueError as error:
                raise self._wrong(name, "a prefix") from error
        inner = Fields(value, f"{self._where} {name}")
        address = inner.address("IP")
        length = inner.mask("Mask")
        if address is None or length is None:
            return None
        if length > address.max_prefixlen:
            raise self._wrong(name, "a mask that fits to its address")
        return ipaddress.ip_network((address, length), strict=False)

    def mask(self, name: str) -> int | None:
        """The length of a mask that is written as base64 of its bytes; None where there is none."""
        text = self.text(name)
        if not text:
            return None
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self._wrong(name, "base64") from error
        bits = "".join(f"{byte:08b}" for byte in raw)
        if len(raw) not in (4, 16) or "01" in bits:
            raise self._wrong(name, "a mask")
        return bits.count("1")


def mask_text(network: Network) -> str:
    """The bytes of a network's mask in base64."""
    return base64.b64encode(network.netmask.packed).decode()


def write_object(document: Mapping[str, Any]) -> bytes:
    """The bytes of a value."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
