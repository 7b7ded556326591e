# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What configuration and inventory want of a host, for preflight. Pure. Private to the collection.

The same in Jinja was the greater part of what preflight cost the controller: every worker compiles every
template anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean

PORT = 51871  # the tunnel's, where encryption.listenPort says nothing
ASKED = 3  # others that each host asks, so that each is asked by three, however large the fleet
OBSERVING = ("hubble.enabled", "prometheus.enabled")
SERVICES = (*OBSERVING, "healthChecking.enabled")
# What preflight finds on a host where the role observability has been.
TRACES = (
    "hubble.crt",
    "wardmesh-observer.service",
    "wardmesh-health.service",
    "wardmesh-relay.service",
    "wardmesh-ui.service",
)


def setting(config: Mapping[str, Any], path: str, fallback: Any = None) -> Any:
    """A key of config.yaml by its path, nested (hubble: {enabled: …}) or flat (hubble.enabled: …)."""
    here: Any = config
    for part in path.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return config.get(path, fallback)
        here = here[part]
    return here


def is_on(config: Mapping[str, Any], *paths: str) -> bool:
    """Is any of these switched on?"""
    return any(boolean(setting(config, path, fallback=False), strict=False) for path in paths)


def follows_store(config: Mapping[str, Any]) -> bool:
    """Does this configuration name a store, its own or another cluster's?"""
    clusters = setting(config, "clustermesh.config.clusters") or []
    return bool(setting(config, "etcd.endpoints") or any("address" in cluster for cluster in clusters))


def observes(config: Mapping[str, Any], relay: bool, digests: Mapping[str, str]) -> bool:
    """Has the role observability anything to do: services that are wanted, or that are there?"""
    return relay or is_on(config, *SERVICES) or any(digests.get(name) for name in TRACES)


def neighbours(group: Sequence[str], own: str) -> list[str]:
    """The next hosts of the group, beginning anew at its end."""
    place = group.index(own) if own in group else 0
    return [name for name in [*group[place + 1 :], *group[:place]][:ASKED] if name != own]
