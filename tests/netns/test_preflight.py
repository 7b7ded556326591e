# SPDX-License-Identifier: Apache-2.0
"""Preflight on a host that lacks something: the module, run by Ansible where the fault is real."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[2]
# Where nobody has mounted it, as on a machine without systemd's own mounts.
BPFFS = "mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf"


@dataclass(frozen=True)
class Fault:
    """What is wrong with the host, as commands that make it so; how preflight names it, and what it advises.

    around: what runs the interpreter (setarch tells it another kernel's version, setpriv takes root away).
    """

    mounts: str = ""
    around: str = ""
    args: Mapping[str, Any] | None = None
    error: str = ""
    advice: str = ""


def _file(path: str, text: str) -> str:
    """A shell line that shows another text at this path."""
    return f"f=$(mktemp); printf {shlex.quote(text)} > $f; chmod 644 $f; mount --bind $f {path}"


FAULTS = {
    "kernel without WireGuard": Fault(
        around="setarch --uname-2.6", error="is too old: 5.6 is the oldest with"
    ),
    "foreign distribution": Fault(
        _file("/etc/os-release", "ID=arch\\nPRETTY_NAME=Arch\\n"), error="Arch is not supp"
    ),
    "no bpf file system": Fault("umount /sys/fs/bpf", error="no bpffs at /sys/fs/bpf (remedy: mount -t bpf"),
    "no systemd": Fault("mount -t tmpfs none /run/systemd", error="systemd does not run this host"),
    "not root": Fault(
        around="setpriv --reuid 65534 --clear-groups", error="not root (remedy: ansible_user: root"
    ),
    "clock": Fault(args={"now": time.time() - 7200}, error="the clock is 7"),
    "address of another": Fault(
        args={"addresses": ["192.0.2.1"]}, error="wardmesh_addresses names 192.0.2.1, which no"
    ),
    "port in use": Fault(args={"port": 0}, error="is in use by another program"),
    "no tun": Fault("mount -t tmpfs none /dev/net", error="neither WireGuard nor /dev/net/tun"),
    "no BTF": Fault("mount -t tmpfs none /sys/kernel/btf", advice="no BTF (/sys/kernel/btf/vmlinux)"),
    "little memory": Fault(
        _file("/proc/meminfo", "MemTotal: 131072 kB\\n"), advice="128 MiB of memory; compiling"
    ),
    "little room": Fault("mount -t tmpfs -o size=1m none /var/lib", advice="1 MiB free below /var/lib"),
}


@pytest.fixture
def busy_port() -> Iterator[int]:
    """A UDP port that somebody has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.bind(("", 0))
        yield link.getsockname()[1]


def preflight(folder: Path, mounts: str, around: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """The module's result where the interpreter sees these mounts."""
    python = folder / "python"
    python.write_text(
        "#!/bin/bash\nexec unshare --mount bash -e -c "
        + shlex.quote(f'{BPFFS}\n{mounts or ":"}\nexec {around} /usr/bin/python3 "$@"')
        + ' python "$@"\n'
    )
    python.chmod(0o755)
    folder.chmod(0o755)
    env = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".dev"),
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_REMOTE_TMP": "/tmp/.wardmesh-preflight",
    }
    command = [str(ROOT / ".venv/bin/ansible"), "-i", "localhost,", "-c", "local", "localhost"]
    command += ["-e", f"ansible_python_interpreter={python}", "-m", "wardmesh.fleet.preflight"]
    done = subprocess.run(
        [*command, "-o", "-a", json.dumps(args)], env=env, capture_output=True, text=True, check=False
    )
    assert "=> " in done.stdout, done.stdout + done.stderr
    verdict, _arrow, text = done.stdout.partition("=> ")
    result: dict[str, Any] = json.loads(text)
    return {**result, "failed": "FAILED" in verdict}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What preflight says of this machine as it is."""
    result = preflight(tmp_path_factory.mktemp("healthy"), "", "", {"now": time.time()})
    return [*result["errors"], *result["advice"]]


@pytest.mark.parametrize("name", list(FAULTS))
def test_what_is_missing_is_named(name: str, tmp_path: Path, busy_port: int, healthy: list[str]) -> None:
    fault = FAULTS[name]
    # A container has no systemd to lose.
    if name != "no systemd" or Path("/run/systemd/system").is_dir():
        assert not [line for line in healthy if (fault.error or fault.advice) in line]
    args = {key: value or busy_port for key, value in (fault.args or {}).items()}
    result = preflight(tmp_path, fault.mounts, fault.around, {"now": time.time(), **args})
    if fault.error:
        assert result["failed"]
        assert [error for error in result["errors"] if fault.error in error], result["errors"]
    else:
        assert [line for line in result["advice"] if fault.advice in line], result["advice"]
    assert not result["changed"]


def test_everything_is_named_at_once(tmp_path: Path, busy_port: int) -> None:
    """All faults together, but another distribution's, which ends the list of packages."""
    together = {
        name: fault for name, fault in FAULTS.items() if name not in ("foreign distribution", "little room")
    }
    args = {"now": time.time() - 7200, "addresses": ["192.0.2.1"], "port": busy_port}
    mounts = "\n".join(fault.mounts for fault in together.values())
    around = " ".join(fault.around for fault in together.values())
    result = preflight(tmp_path, mounts, around, args)
    for name, fault in together.items():
        where = result["errors"] if fault.error else result["advice"]
        assert any((fault.error or fault.advice) in line for line in where), (name, where)
    assert result["msg"].count("remedy:") >= len([fault for fault in together.values() if fault.error])
