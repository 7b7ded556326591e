# SPDX-License-Identifier: Apache-2.0
"""wardmesh sysdump: what is collected from this host. No private key is read, and no `wg show dump` run."""

from __future__ import annotations

import argparse
import gzip
import platform
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wardmesh import __version__
from wardmesh.api import client
from wardmesh.cli import doctor
from wardmesh.cli.doctor_facts import search_path
from wardmesh.cli.fleet import installed_fleet
from wardmesh.cli.local import read_config
from wardmesh.cli.metric_sources import Sources
from wardmesh.cli.output import emit, paths_of
from wardmesh.cli.state import health_of
from wardmesh.datapath.guard_view import ipcache
from wardmesh.datapath.open_pinned import open_firewall, open_guard
from wardmesh.health.redaction import Redactor
from wardmesh.health.sysdump import JSON, TEXT, YAML, Item, collect, manifest, write_archive
from wardmesh.host.files import read_bytes
from wardmesh.host.paths import Paths
from wardmesh.host.process import run
from wardmesh.model.errors import WardmeshError
from wardmesh.observe.metrics_samples import samples

UNITS = (
    "wardmesh.service",
    "wardmesh-boot.service",
    "wardmesh-observer.service",
    "wardmesh-health.service",
    "wardmesh-relay.service",
    "wardmesh-ui.service",
    "wardmesh-wireguard@wardmesh_wg0.service",
    "wardmesh-wireguard@wardmesh_wg1.service",
)
_PLAIN = ("--no-pager", "-o", "short-iso")
LINES = 5000  # of each unit's journal
FLOWS_SHOWN = 1000
ASK = 20.0  # seconds for one program or one answer
_PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,UnitFileState,NRestarts,ExecMainStartTimestamp,"
    "MemoryCurrent,MemoryMax,CPUUsageNSec"
)
_KERNEL_OPTIONS = re.compile(
    r"CONFIG_(?:BPF|CGROUP_BPF|NET_CLS|NET_SCH|WIREGUARD|TUN|DEBUG_INFO_BTF|IKHEADERS)\w*[= ]"
)
_SYSCTLS = (
    "net/ipv4/conf/*/rp_filter",
    "net/ipv4/conf/*/src_valid_mark",
    "net/ipv4/conf/*/forwarding",
    "net/ipv6/conf/*/disable_ipv6",
    "net/core/bpf_jit_*",
    "kernel/unprivileged_bpf_disabled",
    "kernel/osrelease",
)


def sysdump(args: argparse.Namespace) -> int:
    """Collect, take out secrets, write one archive."""
    paths = paths_of(args)
    name = f"wardmesh-sysdump-{socket.gethostname()}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    target = args.file or Path(f"{name}.tar.gz")
    files, rows = collect(items(paths), Redactor(public_keys(paths)))
    write_archive(target, name, {**files, "manifest.json": manifest(rows)})
    failed = [row.name for row in rows if row.error]
    words = f"{target}: {len(files)} files, {target.stat().st_size >> 10} KiB"
    if failed:
        words += f"\nnot collected (manifest.json says why): {', '.join(failed)}"
    document = {"file": str(target), "collected": sorted(files), "failed": failed}
    return emit(args, document, words)


def public_keys(paths: Paths) -> list[str]:
    """Keys that everybody may know, and that help to read the rest."""
    try:
        fleet = installed_fleet(paths)
    except WardmeshError:
        return []
    return [key for m in fleet.members for key in (m.key, m.next_key) if key] if fleet is not None else []


def items(paths: Paths) -> Iterator[Item]:
    """Everything, what matters most first: time and room may run out."""
    yield Item("versions.json", JSON, _versions)
    findings = _once(lambda: doctor.findings(paths))
    yield Item("doctor.json", JSON, lambda: doctor.document(findings()))
    yield Item("doctor.txt", TEXT, lambda: doctor.words(findings()))
    for name, request in (("status", "/v1/status"), ("endpoints", "/v1/endpoints"), ("policy", "/v1/policy")):
        yield Item(f"agent/{name}.json", JSON, _asking(paths, request))
    yield Item("health.json", JSON, lambda: health_of(paths))
    yield Item("files/config.yaml", YAML, _reading(paths.config))
    yield Item("files/fleet.json", JSON, _reading(paths.fleet))
    yield Item("files/state.json", JSON, _reading(paths.mode))
    for path in sorted([*paths.policies.glob("*.yaml"), *paths.policies.glob("*.yml")])[:200]:
        yield Item(f"files/policies/{path.name}", YAML, _reading(path))
    yield Item("metrics.json", JSON, lambda: [vars(sample) for sample in samples(Sources(paths).snapshot())])
    yield from _kernel(paths)
    yield from _network()
    for unit in UNITS:
        yield Item(f"journal/{unit}.txt", TEXT, _journal(unit))
    yield Item("journal/kernel.txt", TEXT, _program("journalctl", "-k", "-n", "2000", *_PLAIN))
    yield Item("units.txt", TEXT, _program("systemctl", "show", f"--property={_PROPERTIES}", *UNITS))
    for name in ("os-release", "meminfo", "loadavg", "uptime"):
        path = Path("/etc") / name if name == "os-release" else Path("/proc") / name
        yield Item(f"host/{name}", TEXT, _reading(path))
    yield Item("host/sysctls.txt", TEXT, _sysctls)
    yield Item("host/kernel-config.txt", TEXT, _kernel_config)


def _kernel(paths: Paths) -> Iterator[Item]:
    columns = ("map", "entries", "maxEntries")

    def config() -> Any:
        return read_config(paths.config, needed=False)

    def guard_maps() -> Any:
        with open_guard(paths, config()) as pinned:
            return [dict(zip(columns, row)) for row in pinned.sizes()]

    def firewall_maps() -> Any:
        with open_firewall(paths, config()) as wall:
            return [dict(zip(columns, row)) for row in wall.sizes()]

    def addresses() -> Any:
        with open_guard(paths, config()) as pinned:
            return {str(net): {"identity": row[0], "flags": row[1]} for net, row in ipcache(pinned).items()}

    def policy() -> Any:
        with open_firewall(paths, config()) as wall:
            return [vars(line) for line in wall.policy()]

    def flows() -> Any:
        with open_firewall(paths, config()) as wall:
            return [vars(line) for _place, line in zip(range(FLOWS_SHOWN), wall.flows())]

    for name, read in (
        ("maps-guard", guard_maps),
        ("maps-firewall", firewall_maps),
        ("ipcache", addresses),
        ("policy", policy),
        ("connections", flows),
    ):
        yield Item(f"bpf/{name}.json", JSON, read)


def _network() -> Iterator[Item]:
    for name, words in (
        ("links", ["ip", "-j", "-d", "-s", "link", "show"]),
        ("addresses", ["ip", "-j", "address", "show"]),
        ("rules4", ["ip", "-4", "-j", "rule", "show"]),
        ("rules6", ["ip", "-6", "-j", "rule", "show"]),
        ("routes4", ["ip", "-4", "-j", "route", "show", "table", "all"]),
        ("routes6", ["ip", "-6", "-j", "route", "show", "table", "all"]),
        ("qdiscs", ["tc", "-j", "qdisc", "show"]),
        ("nft", ["nft", "-j", "list", "ruleset"]),
    ):
        # nft calls what a rule compares "key": no secret.
        yield Item(f"network/{name}.json", JSON, _program(*words), by_name=name != "nft")
    for device in sorted(entry.name for entry in Path("/sys/class/net").iterdir())[:100]:
        for way in ("ingress", "egress"):
            words = ["tc", "-j", "filter", "show", "dev", device, way]
            filters = _program(*words, check=False)  # a device without clsact is an error to tc
            yield Item(f"network/filters-{device}-{way}.json", JSON, filters)
    yield Item("network/sockets.txt", TEXT, _program("ss", "-lntu"))


def _once(make: Callable[[], Any]) -> Callable[[], Any]:
    """The same value for two items, made when the first one asks."""
    held: list[Any] = []

    def give() -> Any:
        if not held:
            held.append(make())
        return held[0]

    return give


def _asking(paths: Paths, request: str) -> Callable[[], Any]:
    return lambda: client.call(paths.socket, "GET", request, timeout=ASK)


def _reading(path: Path) -> Callable[[], str]:
    def read() -> str:
        data = read_bytes(path)
        if data is None:
            raise WardmeshError("no such file", where=str(path))
        return data.decode(errors="replace")

    return read


def _program(name: str, *words: str, check: bool = True) -> Callable[[], str]:
    """What a program prints; check False: an exit status other than 0 is no error."""

    def call() -> str:
        found = shutil.which(name, path=search_path())
        if found is None:
            raise WardmeshError(f"{name} is not installed")
        return run([found, *words], timeout=ASK, check=check).stdout

    return call


def _journal(unit: str) -> Callable[[], str]:
    return _program("journalctl", "-u", unit, "-n", str(LINES), *_PLAIN)


def _versions() -> dict[str, str]:
    return {
        "wardmesh": __version__,
        "python": sys.version,
        "kernel": f"{platform.release()} {platform.version()}",
        "machine": platform.machine(),
        "host": socket.gethostname(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _sysctls() -> str:
    base = Path("/proc/sys")
    found = [path for pattern in _SYSCTLS for path in sorted(base.glob(pattern))]
    names = [path.relative_to(base).as_posix().replace("/", ".") for path in found]
    return "".join(f"{name} = {path.read_text().strip()}\n" for name, path in zip(names, found))


def _kernel_config() -> str:
    path = Path("/boot") / f"config-{platform.release()}"
    packed = Path("/proc/config.gz")
    if path.exists():
        text = path.read_text(encoding="utf-8", errors="replace")
    elif packed.exists():
        text = gzip.decompress(packed.read_bytes()).decode(errors="replace")
    else:
        raise WardmeshError("the kernel's configuration is not there", where=f"{path} or {packed}")
    return "\n".join(line for line in text.splitlines() if _KERNEL_OPTIONS.search(line)) + "\n"
