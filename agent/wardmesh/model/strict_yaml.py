# SPDX-License-Identifier: Apache-2.0
"""Maps in YAML without duplicate keys, which hide what an operator meant."""

from __future__ import annotations

from typing import Any

import yaml


def strict_mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    """A constructor of maps for a loader; keys are plain words, each there once."""
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, (str, int, float, bool)):
            raise yaml.constructor.ConstructorError(
                None, None, "key is not a plain word", key_node.start_mark
            )
        if key in found:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
        found[key] = loader.construct_object(value_node, deep=True)
    return found
