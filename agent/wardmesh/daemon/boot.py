# SPDX-License-Identifier: Apache-2.0
"""Before the network comes up, and after the agent is gone."""

from __future__ import annotations

from wardmesh.daemon import desired
from wardmesh.daemon.engine import IFNAME, Engine
from wardmesh.datapath.guard import Guard
from wardmesh.host.lock import AgentLock
from wardmesh.host.paths import Paths
from wardmesh.host.sysctl import Sysctls
from wardmesh.model.errors import WardmeshError
from wardmesh.wireguard import devices, kernel, userspace
from wardmesh.wireguard.routing import Routing


def guard_from_last_good(paths: Paths) -> list[str]:
    """Load the guard with the last good members and attach it to every device that is there.

    Devices have no addresses yet, so all but loopback and our own are taken.
    """
    from pyroute2 import IPRoute

    if not paths.key.exists():
        return ["no key on this host yet: nothing to guard"]
    with IPRoute() as ipr:
        engine = Engine(paths, ipr)
        found = engine.own()
        if found is None:
            return ["no fleet map yet: nothing to guard"]
        report = engine.guard.ensure_loaded()
        changes = engine.guard.set_members(desired.guard_entries(*found, engine.state))
        changes += engine.guard.set_exceptions(
            (item.protocol, item.port) for item in engine.inputs.config.encryption.exceptions
        )
        links = [
            link
            for link in devices.links(ipr)
            if not link.loopback and not link.name.startswith(devices.OWN_PREFIX)
        ]
        changes += engine.guard.attach([(link.ifindex, link.name, link.l2) for link in links])
        return [f"guard loaded in {report.seconds:.2f} s", *changes]


def remove_everything(paths: Paths, *, dry_run: bool) -> list[str]:
    """Remove what lies in the kernel; refuses while an agent runs, which would put it back."""
    from pyroute2 import IPRoute

    lock = AgentLock(paths.lock)
    try:
        with IPRoute() as ipr:
            routing = Routing(ipr)
            present = bool(ipr.link_lookup(ifname=IFNAME))
            if dry_run:
                found = [f"interface {IFNAME}"] if present else []
                found += [f"route {network}" for network in routing.present_routes()]
                return found + ([f"pins in {paths.bpffs}"] if paths.bpffs.exists() else [])
            removed = routing.teardown()
            if userspace.SOCKETS.joinpath(f"{IFNAME}.sock").exists():
                userspace.UserspaceBackend().remove(IFNAME)
            if ipr.link_lookup(ifname=IFNAME):
                kernel.KernelBackend().remove(IFNAME)
            removed += [f"interface {IFNAME}"] if present else []
            removed += Guard(paths, 51871, 65536).teardown()
            return removed + Sysctls(paths.sysctls).restore()
    except OSError as error:
        raise WardmeshError(
            "cannot remove everything", why=str(error), remedy="run it again as root"
        ) from error
    finally:
        lock.release()
