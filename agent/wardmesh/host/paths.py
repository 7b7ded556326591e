# SPDX-License-Identifier: Apache-2.0
"""Where things lie on a host (DESIGN §4); tests move the root."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """Every path of the contract, below root."""

    root: Path = Path("/")

    @property
    def etc(self) -> Path:
        return self.root / "etc/wardmesh"

    @property
    def config(self) -> Path:
        return self.etc / "config.yaml"

    @property
    def fleet(self) -> Path:
        return self.etc / "fleet.json"

    @property
    def shared_fleet(self) -> Path:
        """The map in force, where it is more than the one in /etc: with the members of a store."""
        return self.run / "fleet.json"

    @property
    def shown(self) -> Path:
        """What this host shows of itself in the store."""
        return self.run / "shown.json"

    @property
    def fleet_in_force(self) -> Path:
        """What names and identities come from."""
        return self.shared_fleet if self.shared_fleet.exists() else self.fleet

    @property
    def policies(self) -> Path:
        return self.etc / "policies"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/wardmesh"

    @property
    def key(self) -> Path:
        return self.state / "keys/wg0.key"

    @property
    def hubble_key(self) -> Path:
        return self.state / "tls/hubble.key"

    @property
    def hubble_cert(self) -> Path:
        return self.etc / "tls/hubble.crt"

    @property
    def fleet_ca(self) -> Path:
        return self.etc / "tls/ca.crt"

    @property
    def next_key(self) -> Path:
        return self.state / "keys/next.key"

    @property
    def programs(self) -> Path:
        """Compiled eBPF programs, for the next boot."""
        return self.state / "programs"

    @property
    def former_keys(self) -> Path:
        """Public keys that this host had before."""
        return self.key.parent / "former.json"

    @property
    def public_keys(self) -> Path:
        return self.state / "public-keys.json"

    @property
    def rotation(self) -> Path:
        return self.state / "rotation.json"

    @property
    def mode(self) -> Path:
        return self.state / "state.json"

    @property
    def labels(self) -> Path:
        return self.state / "labels.json"

    @property
    def clusters(self) -> Path:
        """Folder of what the other clusters' stores said, a file for each."""
        return self.state / "clusters"

    @property
    def discovered(self) -> Path:
        return self.state / "discovered.json"

    @property
    def sysctls(self) -> Path:
        return self.state / "sysctl.json"

    @property
    def last_good(self) -> Path:
        return self.state / "last-good"

    @property
    def run(self) -> Path:
        return self.root / "run/wardmesh"

    @property
    def socket(self) -> Path:
        return self.run / "wardmesh.sock"

    @property
    def hubble(self) -> Path:
        return self.run / "hubble.sock"

    @property
    def health(self) -> Path:
        return self.run / "health.sock"

    @property
    def lock(self) -> Path:
        return self.run / "agent.lock"

    @property
    def bpffs(self) -> Path:
        return Path("/sys/fs/bpf/wardmesh")
