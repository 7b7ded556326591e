# SPDX-License-Identifier: Apache-2.0
"""Labels that a host was given by hand: their form, and the document that keeps them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from wardmesh.model.errors import WardmeshError

# Kubernetes' rules for labels (apimachinery, pkg/util/validation): a prefix is a DNS subdomain.
NAME = re.compile(r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
PREFIX = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")
_FORM = "letters, digits, '-', '_' and '.', at most 63, a letter or digit at both ends"
# What the agent says about every host itself (DESIGN §6).
IMPLICIT = ("cluster", "node")


def check_key(key: str, where: str) -> str:
    """A label's key, or WardmeshError."""
    prefix, slash, name = key.rpartition("/")
    if not NAME.match(name) or (slash and not PREFIX.match(prefix)):
        raise WardmeshError(f"{key!r} is no label key", where=where, remedy=f"use {_FORM}")
    if key in IMPLICIT:
        raise WardmeshError(f"the label {key} is the agent's own", where=where, remedy="choose another key")
    return key


def parse_labels(words: Iterable[str], where: str) -> dict[str, str]:
    """KEY=VALUE words to labels; KEY alone has an empty value."""
    found = {}
    for word in words:
        key, _equals, value = word.partition("=")
        if value and not NAME.match(value):
            raise WardmeshError(f"{value!r} is no label value", where=where, remedy=f"use {_FORM}")
        found[check_key(key, where)] = value
    return found


def read_labels(data: bytes | None, source: str) -> dict[str, str]:
    """The kept document; none is no labels."""
    if data is None:
        return {}
    try:
        document = json.loads(data)
        words = [f"{key}={value}" for key, value in document["labels"].items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WardmeshError(
            "not a list of labels",
            where=source,
            why=f"{type(error).__name__}: {error}",
            remedy="remove the file and set the labels again with wardmesh labels add",
        ) from error
    return parse_labels(words, source)


def labels_document(labels: Mapping[str, str]) -> bytes:
    """What read_labels reads."""
    return json.dumps({"labels": dict(sorted(labels.items()))}, indent=1).encode() + b"\n"
