# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's zipapp and units, from the sources beside this collection. Private to the collection."""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache

import ansible_collections.wardmesh.fleet as collection
from ansible_collections.wardmesh.fleet.plugins.plugin_utils._once import once

UNITS = ("wardmesh.service", "wardmesh-boot.service", "wardmesh-wireguard@.service")


def root() -> str:
    """The folder of the collection, a clone or an installed one."""
    return os.path.realpath(str(next(iter(collection.__path__))))


@lru_cache(maxsize=1)
def bundle() -> bytes:
    """The zipapp's bytes, built once in a run."""
    return bytes(once("agent.pyz", _build))


def _build() -> bytes:
    spec = importlib.util.spec_from_file_location(
        "wardmesh_build_zipapp", os.path.join(root(), "agent", "build_zipapp.py")
    )
    if spec is None or spec.loader is None:
        raise OSError("agent/build_zipapp.py is missing from the collection")
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    return bytes(builder.build(builder.Path(root())))


def units() -> dict[str, str]:
    """Text of each unit that the agent needs, by name."""
    found = {}
    for name in UNITS:
        with open(os.path.join(root(), "agent", "systemd", name), encoding="utf-8") as stream:
            found[name] = stream.read()
    return found
