# SPDX-License-Identifier: Apache-2.0
"""Guard and firewall in the kernel, opened by the sizes that a configuration gives their maps."""

from __future__ import annotations

from pathlib import Path

from wardmesh.datapath import contract, fw_contract
from wardmesh.datapath.fw_view import PinnedFirewall
from wardmesh.datapath.pinned import PinnedMaps
from wardmesh.datapath.pins import Pins
from wardmesh.host.paths import Paths
from wardmesh.model.config import Config


def _sizes(config: Config) -> tuple[int, int, int]:
    return config.members_max, config.firewall.rows_max, config.firewall.flows_max


def firewall_folder(paths: Paths, config: Config) -> Path:
    """Where the firewall's maps are pinned; absent where it is off."""
    return Pins(paths.bpffs / "firewall").maps(fw_contract.contract_hash(*_sizes(config)))


def open_firewall(paths: Paths, config: Config) -> PinnedFirewall:
    """The firewall's maps in the kernel; WardmeshError where there are none."""
    specs = fw_contract.map_specs(*_sizes(config))
    return PinnedFirewall(firewall_folder(paths, config), specs, config.firewall.rows_max)


def open_guard(paths: Paths, config: Config) -> PinnedMaps:
    """The guard's maps in the kernel; WardmeshError where there are none."""
    folder = Pins(paths.bpffs).maps(contract.contract_hash(config.members_max))
    return PinnedMaps(folder, contract.map_specs(config.members_max), "guard")
