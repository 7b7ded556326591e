# SPDX-License-Identifier: Apache-2.0
"""The fleet's tunnel against the same backend set up by hand, nebula, and no tunnel at all."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import wire
from bench.play import Controller
from bench.report import Section, median
from lab import Host, Lab

BARE, PLAIN, NEBULA = "10.77.0", "10.78.0", "10.79.0"


def by_hand(hosts: list[Host]) -> None:
    """wireguard-go (or the kernel's), a key, one peer, an address; nothing else."""
    for host in hosts:
        host.run(
            "ip link add bare0 type wireguard 2>/dev/null || wireguard-go bare0 >/dev/null 2>&1; "
            "umask 077; wg genkey > /run/bare.key; wg set bare0 listen-port 51999 private-key /run/bare.key; "
            f"ip addr add {BARE}.{host.index}/24 dev bare0; ip link set bare0 mtu 1420 up"
        )
    keys = [host.run("wg show bare0 public-key").stdout.strip() for host in hosts]
    for host, other, key in ((hosts[0], hosts[1], keys[1]), (hosts[1], hosts[0], keys[0])):
        peer = f"allowed-ips {BARE}.{other.index}/32 endpoint {PLAIN}.{other.index}:51999"
        host.run(f"wg set bare0 peer {key} {peer}")


def plain(hosts: list[Host]) -> None:
    """An address that is no member's: the same wire without any tunnel."""
    for host in hosts:
        host.run(f"ip addr add {PLAIN}.{host.index}/24 dev host0")


def nebula(hosts: list[Host]) -> None:
    """Debian's nebula with a certificate authority made on the spot."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["nebula-cert", "ca", "-name", "bench"], check=True, cwd=folder)
        for host in hosts:
            words = ["-name", host.name, "-ip", f"{NEBULA}.{host.index}/24"]
            subprocess.run(["nebula-cert", "sign", *words], check=True, cwd=folder)
            host.run("mkdir -p /run/nebula")
            host.put(Path("/usr/bin/nebula"), "/run/nebula/nebula", "0755")
            for part in ("ca.crt", f"{host.name}.crt", f"{host.name}.key"):
                host.put(folder / part, f"/run/nebula/{part}")
            host.run("cat > /run/nebula/config.yml", stdin=_nebula_config(host, hosts))
            host.run("systemd-run -q --unit=benchnebula /run/nebula/nebula -config /run/nebula/config.yml")


def _nebula_config(host: Host, hosts: list[Host]) -> str:
    others = "".join(f'  "{NEBULA}.{h.index}": ["{PLAIN}.{h.index}:4242"]\n' for h in hosts if h is not host)
    rule = "    - {port: any, proto: any, host: any}\n"
    return (
        f"pki:\n  ca: /run/nebula/ca.crt\n  cert: /run/nebula/{host.name}.crt\n  key: "
        f"/run/nebula/{host.name}.key\n"
        f"static_host_map:\n{others}lighthouse: {{am_lighthouse: false}}\n"
        "listen: {host: 0.0.0.0, port: 4242}\n"
        f"tun: {{dev: neb0, mtu: 1300}}\nfirewall:\n  outbound:\n{rule}  inbound:\n{rule}"
    )


def run(say: Callable[[str], None], passes: int = 5, seconds: float = 3.0, rounds: int = 2000) -> Section:
    """All variants in turn, within each pass."""
    lab = Lab.up(2, "bench")
    try:
        hosts = lab.hosts
        say("rolling out the fleet")
        with Controller(lab) as controller:
            controller.play("site")
        plain(hosts)
        by_hand(hosts)
        nebula(hosts)
        wire.prepare(hosts)
        target = hosts[1]
        variants = {
            "fleet's tunnel, strict": target.address,
            "the same backend by hand": f"{BARE}.2",
            "nebula": f"{NEBULA}.2",
            "plain veth": f"{PLAIN}.2",
        }
        streams: dict[str, list[wire.Stream]] = {name: [] for name in variants}
        echoes: dict[str, list[float]] = {name: [] for name in variants}
        for number in range(passes):
            for name, address in variants.items():
                say(f"pass {number + 1} of {passes}: {name}")
                streams[name].append(wire.stream(hosts[0], target, address, seconds))
                echoes[name].append(wire.echo(hosts[0], address, rounds))
        backend = hosts[0].run("wardmesh encryption status -o json").stdout
        return _section(streams, echoes, "userspace" if '"userspace"' in backend else "kernel", passes)
    finally:
        lab.down()


def _section(
    streams: dict[str, list[wire.Stream]], echoes: dict[str, list[float]], backend: str, passes: int
) -> Section:
    section = Section(
        "Through the tunnel",
        f"Two containers on one bridge, backend: {backend}. One TCP stream; one byte there and back. CPU is "
        f"that of both hosts with everything on them, from their cgroups. Medians of {passes} "
        f"passes; ratios are "
        "medians of the ratios within a pass. Judge by CPU: throughput swings with neighbours. "
        "`make bench PART=tunnel`",
        ("", "Mbit/s", "to by hand", "CPU-s/GB", "to by hand", "round trip µs", "to by hand"),
    )
    base = "the same backend by hand"
    ratios: dict[str, tuple[float, float, float]] = {}
    for name, found in streams.items():
        paired = list(zip(found, streams[base], strict=True))
        speed = median([a.megabits / b.megabits for a, b in paired])
        cpu = median([a.cpu / b.cpu for a, b in paired])
        trip = median([a / b for a, b in zip(echoes[name], echoes[base], strict=True)])
        ratios[name] = (speed, cpu, trip)
        section.rows.append(
            (
                name,
                f"{median([s.megabits for s in found]):.0f}",
                f"{speed:.2f}",
                f"{median([s.cpu for s in found]):.2f}",
                f"{cpu:.2f}",
                f"{median(echoes[name]):.0f}",
                f"{trip:.2f}",
            )
        )
    speed, cpu, trip = ratios["fleet's tunnel, strict"]
    section.judge("throughput to the backend by hand", speed, 0.95, at_most=False)
    section.judge("CPU for a gigabyte to the backend by hand", cpu, 1.05)
    section.judge("TCP request and response to the backend by hand", trip, 1.05)
    return section
