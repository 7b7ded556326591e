# SPDX-License-Identifier: Apache-2.0
"""Checks of the host, the agent's state and its files."""

from __future__ import annotations

from wardmesh.health.checks_tunnel import CHECKS as TUNNEL_CHECKS
from wardmesh.health.checks_tunnel import FUTURE
from wardmesh.health.doctor import PROBLEM, WARNING, Check, Judged, good
from wardmesh.health.facts import (
    Agent,
    Disk,
    Document,
    InstalledMap,
    Kernel,
    KeyFile,
    MapFill,
    Settings,
    Trial,
    Unit,
)

AGENT_UNIT, BOOT_UNIT, OBSERVER_UNIT = (
    "wardmesh.service",
    "wardmesh-boot.service",
    "wardmesh-observer.service",
)
MAP_WARNING = 0.9  # as in the alert rules
DISK_WARNING = 100 << 20  # bytes; preflight asks for as much
DISK_PROBLEM = 5 << 20  # state, map and last good copies of ten thousand members take less
INODES_WARNING = 100


def units(found: tuple[Unit, ...], settings: Settings) -> Judged:
    """Do the units run, and will they after a boot?"""
    by_name = {unit.name: unit for unit in found}
    agent, boot = by_name.get(AGENT_UNIT), by_name.get(BOOT_UNIT)
    observer = by_name.get(OBSERVER_UNIT)
    if agent is None or agent.active != "active":
        state = agent.active if agent else "not installed"
        return Judged(
            PROBLEM, f"{AGENT_UNIT} is {state}", f"systemctl start {AGENT_UNIT}; journalctl -u wardmesh"
        )
    late = [
        unit.name for unit in (agent, boot) if unit and unit.enabled not in ("enabled", "enabled-runtime")
    ]
    late += [] if boot else [BOOT_UNIT]
    if late:
        return Judged(
            PROBLEM,
            f"not enabled at boot: {', '.join(late)}; until the agent runs again the host would be open",
            f"systemctl enable {AGENT_UNIT}",
        )
    if boot and boot.active == "failed":
        return Judged(PROBLEM, f"{BOOT_UNIT} failed at the last boot", f"journalctl -b -u {BOOT_UNIT}")
    if settings.metrics and (observer is None or observer.active != "active"):
        state = observer.active if observer else "not installed"
        return Judged(
            WARNING, f"{OBSERVER_UNIT} is {state}, but metrics are configured", "run observability.yml"
        )
    return good("the agent runs and starts at boot")


def answers(silence: str) -> Judged:
    """Does the agent answer? Without it nothing is repaired, and much of this cannot be known."""
    if silence:
        return Judged(PROBLEM, silence, f"systemctl start {AGENT_UNIT}; journalctl -u wardmesh")
    return good("the agent answers")


def agent_problems(agent: Agent) -> Judged:
    """What the agent itself says."""
    if agent.problems:
        return Judged(PROBLEM, "; ".join(agent.problems), "each names its remedy; journalctl -u wardmesh")
    if agent.warnings:
        return Judged(WARNING, "; ".join(agent.warnings), "each says what it means; journalctl -u wardmesh")
    return good("the agent reports no problems")


def kernel_features(kernel: Kernel) -> Judged:
    """What guard and firewall need of the kernel."""
    if not kernel.bpffs:
        return Judged(PROBLEM, "no bpf file system at /sys/fs/bpf", "mount -t bpf bpf /sys/fs/bpf")
    if not kernel.headers:
        return Judged(
            WARNING,
            f"no kernel headers for Linux {kernel.release}: after an update the guard cannot be compiled",
            "install the headers package of the distribution",
        )
    return good("bpf file system and kernel headers are there")


def clock(synchronised: bool) -> Judged:
    """Does something keep the clock right?"""
    if not synchronised:
        return Judged(WARNING, "the clock is not synchronised", "timedatectl set-ntp true, or an NTP client")
    return good("the clock is synchronised")


def clock_jump(agent: Agent) -> Judged:
    """Was the clock set back? WireGuard refuses handshakes that look older than ones it has seen."""
    ahead = [peer.name for peer in agent.peers if peer.last_handshake > agent.now + FUTURE]
    if ahead:
        return Judged(
            PROBLEM,
            f"the clock was set back: handshakes of the future with {', '.join(ahead[:10])}",
            "set the clock right; peers refuse this host until its clock is past the old time",
        )
    return good("no handshake lies in the future")


def map_pressure(maps: tuple[MapFill, ...]) -> Judged:
    """Do the maps have room?"""
    fills = sorted(((row.entries / row.capacity, row) for row in maps if row.capacity), key=lambda f: -f[0])
    if not fills:
        return Judged(WARNING, "there are no maps in the kernel", "is the agent running? wardmesh status")
    tight = [(share, row) for share, row in fills if share >= MAP_WARNING]
    if tight:
        full = any(share >= 1 and not row.lru for share, row in tight)
        words = ", ".join(f"{row.name} {share:.0%}" for share, row in tight)
        return Judged(
            PROBLEM if full else WARNING,
            f"nearly full: {words}",
            "raise bpf.flowsMax (flows), bpf.membersMax (ipcache, peers) or bpf.policyRowsMax (rows)",
        )
    return good(f"fullest: {fills[0][1].name} {fills[0][0]:.0%}")


def policy(agent: Agent, trial: Trial) -> Judged:
    """Is policy enforced, and did the last trial hold?"""
    if trial.pending:
        return Judged(
            WARNING,
            f"policies are on trial for another {trial.seconds_left:.0f} s",
            "wardmesh policy confirm, or let them go",
        )
    if "not confirmed" in trial.last:
        return Judged(
            WARNING,
            f"the last trial was {trial.last}",
            "the new policies cut the controller off: wardmesh policy diff, then policy.yml again",
        )
    if not agent.firewall:
        return good("the firewall is switched off; policies are only checked")
    if agent.audit:
        return Judged(
            WARNING,
            f"audit mode: {agent.policies} policies are judged and nothing is dropped",
            "policyAuditMode: false",
        )
    return good(f"{agent.policies} policies are enforced")


def documents(found: tuple[Document, ...]) -> Judged:
    """Are the files that decide valid?"""
    broken = [f"{row.path}: {row.problem}" for row in found if row.problem]
    if broken:
        return Judged(
            PROBLEM, "; ".join(broken), "correct the file; the last good state stays in force meanwhile"
        )
    return good(f"valid: {', '.join(row.path for row in found) or 'none there yet'}")


def key(found: KeyFile) -> Judged:
    """Is the private key there, and only root's?"""
    if not found.exists:
        return Judged(WARNING, "no private key on this host", "run site.yml, or wardmesh node init")
    if found.mode & 0o077 or found.folder_mode & 0o022 or found.owner:
        return Judged(
            PROBLEM,
            f"the private key has mode {found.mode:04o}, owner {found.owner}, in a folder of mode "
            f"{found.folder_mode:04o}: others may know it",
            "remove the key for a new one and run site.yml; chmod 600 and chown root if nobody read it",
        )
    return good("the private key is root's alone")


def disk(found: Disk) -> Judged:
    """Is there room for state?"""
    free = f"{found.free_bytes >> 20} MiB and {found.free_inodes} inodes free at {found.path}"
    if found.free_bytes < DISK_PROBLEM or not found.free_inodes:
        return Judged(PROBLEM, free, "free space: a new map or policy set cannot be kept")
    if found.free_bytes < DISK_WARNING or found.free_inodes < INODES_WARNING:
        return Judged(WARNING, free, "free space before it runs out")
    return good(free)


def versions(own: str, agent: Agent) -> Judged:
    """Does the agent run that is installed? Other hosts' versions are not known on a host."""
    if own != agent.version:
        return Judged(
            WARNING,
            f"the agent runs version {agent.version}, {own} is installed",
            "systemctl restart wardmesh; traffic and policy go on meanwhile",
        )
    return good(f"version {own}; those of other hosts are in the metric cilium_version")


def fleet_map(installed: InstalledMap | None, agent: Agent) -> Judged:
    """Is the installed map in force?"""
    if installed is None:
        return Judged(WARNING, "no fleet map on this host", "run the playbook site.yml")
    days = installed.age / 86400
    text = f"generation {installed.generation}, {installed.members} members, written {days:.1f} days ago"
    if installed.digest != agent.fleet_digest:
        return Judged(
            PROBLEM,
            f"{text}; in force is generation {agent.generation}",
            "the agent refused the installed map: wardmesh status says why; systemctl reload wardmesh",
        )
    return good(text)


def metrics(tcp_ports: frozenset[int], settings: Settings) -> Judged:
    """Are metrics served where they are switched on?"""
    if not settings.metrics:
        return good("metrics are switched off")
    if settings.metrics_port in tcp_ports:
        return good(f"metrics are served on TCP {settings.metrics_port}")
    return Judged(
        WARNING,
        f"nothing listens on TCP {settings.metrics_port}",
        f"systemctl status {OBSERVER_UNIT}; the playbook observability.yml installs it",
    )


CHECKS = (
    Check("units", "units of systemd", ("units", "settings"), units),
    Check("agent-answers", "agent", ("silence",), answers),
    Check("agent", "problems that the agent reports", ("agent",), agent_problems),
    *TUNNEL_CHECKS,
    Check("kernel", "what guard and firewall need of the kernel", ("kernel",), kernel_features),
    Check("clock", "clock", ("clock",), clock),
    Check("clock-jump", "clock against handshakes", ("agent",), clock_jump),
    Check("maps", "room in the maps", ("maps",), map_pressure),
    Check("policy", "policy", ("agent", "trial"), policy),
    Check("files", "files that decide", ("documents",), documents),
    Check("key", "private key", ("key",), key),
    Check("disk", "disk space for state", ("disk",), disk),
    Check("versions", "versions", ("version", "agent"), versions),
    Check("fleet-map", "fleet map", ("installed", "agent"), fleet_map),
    Check("metrics", "metrics", ("tcp_ports", "settings"), metrics),
)
