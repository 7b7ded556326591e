# SPDX-License-Identifier: Apache-2.0
"""Checks of encryption: the seeds' "interface not made" and "hosts cannot talk" (chapter 10.1)."""

from __future__ import annotations

from collections.abc import Mapping

from wardmesh.health.doctor import PROBLEM, WARNING, Check, Judged, good
from wardmesh.health.facts import (
    Agent,
    Attached,
    Chain,
    Checks,
    Device,
    InstalledMap,
    Kernel,
    PathMtu,
    Reverse,
    Settings,
)
from wardmesh.health.packet_filters import fate

INTERFACE = "wardmesh_wg0"
OVERHEAD = 80  # wireguard/mtu.py says where it comes from
IPV6_MINIMUM = 1280
NAMES_SHOWN = 10
CHECKS_REMEDY = "systemctl status wardmesh-health; journalctl -u wardmesh-health"
FUTURE = 5.0  # seconds that a handshake may lie ahead of the clock


def listed(names: list[str]) -> str:
    """Some names, and how many more."""
    rest = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def wireguard(kernel: Kernel) -> Judged:
    """Is there a WireGuard that can be used?"""
    if kernel.wireguard == "loaded":
        return good(f"the kernel's WireGuard is loaded (Linux {kernel.release})")
    if kernel.wireguard == "available":
        return good(f"Linux {kernel.release} has WireGuard as a module; it is loaded with the first tunnel")
    if kernel.userspace and kernel.tun:
        return good("the kernel has no WireGuard; wireguard-go is installed")
    missing = "wireguard-go is not installed" if not kernel.userspace else "/dev/net/tun is missing"
    return Judged(
        PROBLEM,
        f"Linux {kernel.release} has no WireGuard, and {missing}",
        "modprobe wireguard; else a kernel from 5.6 on, or install wireguard-go",
    )


def interface(devices: tuple[Device, ...], settings: Settings, installed: InstalledMap | None) -> Judged:
    """Is the tunnel's device there and up?"""
    if not settings.encryption:
        return good("encryption is switched off; there is no tunnel")
    if installed is None:
        return Judged(WARNING, "no fleet map yet, so there is no tunnel", "run the playbook site.yml")
    found = next((device for device in devices if device.name == INTERFACE), None)
    if found is None:
        return Judged(
            PROBLEM,
            f"{INTERFACE} does not exist",
            "journalctl -u wardmesh | grep -i wireguard; the agent makes it anew where it can",
        )
    if not found.up:
        return Judged(PROBLEM, f"{INTERFACE} is down", f"ip link set {INTERFACE} up; see who sets it down")
    return good(f"{INTERFACE} is up, MTU {found.mtu}")


def listening(udp_ports: frozenset[int], settings: Settings, installed: InstalledMap | None) -> Judged:
    """Does anything listen on the tunnel's port?"""
    if not settings.encryption or installed is None:
        return good("there is no tunnel to listen for")
    if settings.listen_port in udp_ports:
        return good(f"UDP {settings.listen_port} is open on this host")
    return Judged(
        PROBLEM,
        f"nothing listens on UDP {settings.listen_port}",
        "see the check `interface`; another program may hold the port: ss -lunp",
    )


def handshakes(agent: Agent) -> Judged:
    """Do the peers answer? A peer that is up proves that the port passes both ways."""
    if not agent.peers:
        return good("no peers")
    silent = [peer.name for peer in agent.peers if peer.tunnel != "up"]
    up = len(agent.peers) - len(silent)
    if not silent:
        return good(f"all {up} tunnels are up")
    port = agent.listen_port
    if not up:
        return Judged(
            PROBLEM,
            f"no tunnel of {len(agent.peers)} is up",
            f"this host is cut off or its key is not known: open UDP {port} in and out here; run site.yml",
        )
    never = [peer.name for peer in agent.peers if peer.tunnel != "up" and not peer.last_handshake]
    hint = f"; never: {listed(never)}" if never else ""
    return Judged(
        PROBLEM,
        f"{up} of {len(agent.peers)} tunnels are up; not up: {listed(silent)}{hint}",
        f"is the host up? open UDP {port} between the two; tcpdump -ni DEVICE udp port {port} on both",
    )


def peers_health(checks: Checks | None) -> Judged:
    """Do the peers answer the checks of wardmesh-health?"""
    if checks is None:
        return good("checking of peers is switched off")
    if checks.problems:
        return Judged(
            WARNING,
            f"peers are not checked as they should be: {listed(list(checks.problems))}",
            CHECKS_REMEDY,
        )
    if checks.unreachable:
        return Judged(
            PROBLEM,
            f"{len(checks.unreachable)} peers answer no check: {listed(list(checks.unreachable))}",
            "is the host up? wardmesh ping NAME says how far packets get",
        )
    if checks.doubtful:
        told = [f"{name} ({why})" for name, why in checks.doubtful]
        return Judged(WARNING, f"peers that answer badly: {listed(told)}", "wardmesh status --all-health")
    return good(f"{checks.reachable} peers answer, {checks.unknown} not checked yet")


def packet_filter(filters: tuple[Chain, ...], settings: Settings) -> Judged:
    """Does a firewall of the host stand before the tunnel's port?

    A warning, for replies to our own packets pass a stateful filter: tunnels may be up all the same.
    """
    port = settings.listen_port
    fates = {chain.name: fate(chain, "udp", port) for chain in filters}
    closed = [name for name, end in fates.items() if end == "drop"]
    unclear = [name for name, end in fates.items() if end == "unclear"]
    remedy = f"allow it: nft add rule inet filter input udp dport {port} accept (or iptables, firewalld, ufw)"
    if closed:
        return Judged(WARNING, f"UDP {port} is not let in by: {listed(closed)}", remedy)
    if unclear:
        return Judged(WARNING, f"UDP {port} is let in for some senders only by: {listed(unclear)}", remedy)
    return good(f"UDP {port} passes {len(fates)} chains of the host's packet filter")


def mtu(devices: tuple[Device, ...], paths: tuple[PathMtu, ...], settings: Settings) -> Judged:
    """Does what the tunnel takes fit through the ways to the peers?"""
    tunnel = next((device for device in devices if device.name == INTERFACE), None)
    if tunnel is None:
        return good("there is no tunnel")
    if tunnel.mtu < IPV6_MINIMUM:
        return Judged(
            PROBLEM,
            f"MTU {tunnel.mtu} is below {IPV6_MINIMUM}: no IPv6 in the tunnel",
            "raise the MTU of the physical device, or unset `mtu` in the configuration",
        )
    room = max((path.mtu for path in paths), default=0) - OVERHEAD
    if paths and tunnel.mtu > max(room, IPV6_MINIMUM):
        why = " (set by `mtu` in the configuration)" if settings.mtu else ""
        return Judged(
            WARNING,
            f"MTU {tunnel.mtu}{why}, the widest way to a peer has {room + OVERHEAD}: packets are fragmented",
            f"set `mtu` to {room} or less, or unset it",
        )
    narrow = [f"{path.peer} {path.mtu}" for path in paths if path.mtu - OVERHEAD < tunnel.mtu]
    note = f"; narrower, with routes of their own: {listed(narrow)}" if narrow else ""
    return good(f"MTU {tunnel.mtu} fits{note}")


def reverse_path(reverse: Reverse, devices: tuple[Device, ...]) -> Judged:
    """Would the reverse-path check drop what comes out of the tunnel, or the tunnel's own packets?"""
    everywhere = reverse.rp_filter.get("all", 0)
    wrong = []
    if INTERFACE in reverse.rp_filter and max(everywhere, reverse.rp_filter[INTERFACE]) == 1:
        wrong.append(f"net.ipv4.conf.{INTERFACE}.rp_filter")
    for device in devices:
        strict = max(everywhere, reverse.rp_filter.get(device.name, 0)) == 1
        marked = reverse.src_valid_mark.get("all", 0) or reverse.src_valid_mark.get(device.name, 0)
        if device.guarded and strict and not marked:
            wrong.append(f"net.ipv4.conf.{device.name}.src_valid_mark")
    if wrong:
        return Judged(
            PROBLEM,
            f"the strict reverse-path check drops packets: {listed(wrong)}",
            "the agent sets rp_filter 2 on the tunnel, src_valid_mark 1 on devices; see what undoes it",
        )
    return good("the reverse-path check lets the tunnel's packets pass")


def programs(attached: tuple[Attached, ...], settings: Settings, installed: InstalledMap | None) -> Judged:
    """Are guard and firewall on every device, both ways, and first?"""
    if not settings.encryption or installed is None:
        return good("there is no mesh on this host yet")
    if not attached:
        return Judged(
            WARNING, "no device of this host carries its traffic", "see `devices` in the configuration"
        )
    missing = []
    for row in attached:
        ways = [("guard", row.guard)] if row.device != INTERFACE else []
        ways += [("firewall", row.firewall)] if settings.firewall else []
        for what, (came, went) in ways:
            missing += [] if came else [f"{what} on {row.device} ingress"]
            missing += [] if went else [f"{what} on {row.device} egress"]
    if missing:
        return Judged(
            PROBLEM,
            f"not attached: {listed(missing)}",
            "the agent attaches them within seconds: systemctl status wardmesh",
        )
    before = [f"{row.device}: {line}" for row in attached for line in row.before]
    if before:
        return Judged(
            WARNING,
            f"filters of others run first and may let packets past: {listed(before)}",
            "move them to a later priority",
        )
    return good(f"attached in both directions on {listed([row.device for row in attached])}")


def plain_packets(counters: Mapping[str, int]) -> Judged:
    """Were packets dropped because they were not encrypted?"""
    dropped = {way: counters.get(f"Traffic is unencrypted {way}", 0) for way in ("ingress", "egress")}
    plain = sum(counters.get(f"Plaintext {way}", 0) for way in ("ingress", "egress"))
    if any(dropped.values()):
        return Judged(
            WARNING,
            f"plain packets of sealed members were dropped: {dropped['ingress']} in, {dropped['egress']} out",
            "in: the other side lost its routes (its doctor says more); out: a program bypasses the routes, "
            "as one that is bound to a device",
        )
    return good(f"none dropped; {plain} plain packets to or from members that are not sealed passed")


def mode(agent: Agent) -> Judged:
    """Is what is wished in force?"""
    if not agent.encryption:
        return Judged(WARNING, "encryption is switched off", "encryption.enabled: true, then site.yml")
    if agent.mode == agent.wish == "prefer":
        return good("mode prefer, as configured: plain packets are accepted")
    if agent.mode != agent.wish:
        return Judged(
            WARNING,
            f"mode {agent.mode}, but {agent.wish} is wished",
            f"wardmesh encryption mode {agent.wish}, or run site.yml",
        )
    loose = [peer.name for peer in agent.peers if not peer.sealed]
    if loose:
        return Judged(
            WARNING,
            f"strict, but not sealed yet: {listed(loose)}",
            "they are sealed once their tunnels are up; at once: wardmesh encryption mode strict --all",
        )
    return good(f"strict, all {len(agent.peers)} members sealed")


CHECKS = (
    Check("wireguard", "WireGuard in the kernel or user space", ("kernel",), wireguard),
    Check("interface", "tunnel device", ("devices", "settings", "installed"), interface),
    Check("listening", "tunnel's port on this host", ("udp_ports", "settings", "installed"), listening),
    Check("handshakes", "handshakes with peers", ("agent",), handshakes),
    Check("peers-health", "checks of the peers", ("checks",), peers_health),
    Check("packet-filter", "packet filter before the tunnel's port", ("filters", "settings"), packet_filter),
    Check("mtu", "MTU of the tunnel", ("devices", "paths", "settings"), mtu),
    Check("reverse-path", "reverse-path check", ("reverse", "devices"), reverse_path),
    Check("programs", "guard and firewall on the devices", ("attached", "settings", "installed"), programs),
    Check("mode", "mode of encryption", ("agent",), mode),
    Check("plain-packets", "unencrypted packets", ("counters",), plain_packets),
)
