# SPDX-License-Identifier: Apache-2.0
"""systemd-nspawn hosts: own root (overlay), network namespace, bpffs and cgroup each.

Names carry everything: namespace wl-<lab>-<i>, cgroup wl-<lab>-<i>, folder <state>/<i>. So what a
killed run left behind is found again by its name.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

CGROUP2 = (
    Path("/sys/fs/cgroup/unified") if Path("/sys/fs/cgroup/unified").is_dir() else Path("/sys/fs/cgroup")
)
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
INOTIFY_EACH = 16  # systemd, its services and wireguard-go of a container; all containers share one limit
HIERARCHIES = tuple(path for path in (CGROUP2, Path("/sys/fs/cgroup/systemd")) if path.is_dir())


def sh(*argv: str, check: bool = True) -> str:
    """Run a command; its output."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def make_room(note: Path, count: int) -> None:
    """Raise the machine's limit of inotify instances for all these containers; note keeps what it was."""
    before, wanted = int(INOTIFY.read_text()), 128 + INOTIFY_EACH * count
    if before < wanted:
        if not note.exists():
            note.write_text(str(before))
        INOTIFY.write_text(str(wanted))


def give_room_back(note: Path) -> None:
    """The limit as it was before the first lab."""
    if note.exists():
        INOTIFY.write_text(note.read_text())
        note.unlink()


def start(image: Path, state: Path, lab: str, index: int, bridge_ns: str) -> None:
    """Boot one container; a reboot that it asks for (exit status 133) is answered with a new start."""
    folder = state / str(index)
    for name in ("upper", "work", "root", "bpf"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(folder / "root"):
        sh(
            "mount",
            "-t",
            "overlay",
            "overlay",
            "-o",
            f"lowerdir={image}/rootfs,upperdir={folder}/upper,workdir={folder}/work",
            str(folder / "root"),
        )
    (folder / "root/etc/hostname").write_text(f"node{index}\n")
    keeper = os.fork()
    if keeper:
        (folder / "pid").write_text(str(keeper))
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(number, target)
    status = 133
    while status == 133:
        status = _boot_once(folder, lab, index, bridge_ns)
    os._exit(0)


def _boot_once(folder: Path, lab: str, index: int, bridge_ns: str) -> int:
    name = f"wl-{lab}-{index}"
    _hardware(folder, name, index, bridge_ns)
    child = os.fork()
    if not child:
        for hierarchy in HIERARCHIES:
            (hierarchy / name).mkdir(exist_ok=True)
            (hierarchy / name / "cgroup.procs").write_text(str(os.getpid()))
        os.environ.update(SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="1", SYSTEMD_NSPAWN_API_VFS_WRITABLE="network")
        os.execvp(
            "systemd-nspawn",
            [
                "systemd-nspawn",
                "-q",
                "--keep-unit",
                "--register=no",
                "--settings=no",
                "-D",
                str(folder / "root"),
                f"--network-namespace-path=/run/netns/{name}",
                f"--machine=node{index}",
                f"--hostname=node{index}",
                f"--setenv=lab_id={index}",
                "--capability=all",
                "--system-call-filter=bpf perf_event_open keyctl add_key",
                "--resolv-conf=off",
                "--timezone=off",
                "--link-journal=no",
                "--bind=/dev/net/tun",
                f"--bind={folder}/bpf:/sys/fs/bpf",
                "--boot",
                "--console=pipe",
            ],
        )
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _hardware(folder: Path, name: str, index: int, bridge_ns: str) -> None:
    """A fresh namespace, cable and bpffs, as a power cycle would give."""
    sh("ip", "netns", "del", name, check=False)
    sh("ip", "-n", bridge_ns, "link", "del", f"p{index}", check=False)
    sh("umount", "-l", str(folder / "bpf"), check=False)
    sh("mount", "-t", "bpf", "-o", "mode=700", "bpf", str(folder / "bpf"))
    sh("ip", "netns", "add", name)
    sh(
        "ip",
        "-n",
        bridge_ns,
        "link",
        "add",
        f"p{index}",
        "type",
        "veth",
        "peer",
        "name",
        "host0",
        "address",
        f"02:99:00:00:00:{index:02x}",
        "netns",
        name,
    )
    sh("ip", "-n", bridge_ns, "link", "set", f"p{index}", "master", "br0", "up")


def processes(name: str) -> list[int]:
    """Every process in the cgroup of a container, in any hierarchy."""
    found: set[int] = set()
    for hierarchy in HIERARCHIES:
        for folder, _folders, _files in os.walk(hierarchy / name):  # passes over what goes meanwhile
            try:
                found |= {int(line) for line in Path(folder, "cgroup.procs").read_text().split()}
            except OSError:
                continue
    return sorted(found)


def destroy(state: Path, lab: str, index: int) -> None:
    """Power off and remove every trace; works on half-made hosts too."""
    name = f"wl-{lab}-{index}"
    folder = state / str(index)
    pid = folder / "pid"
    if pid.exists():
        _kill_keeper(int(pid.read_text()))
    deadline = time.monotonic() + 20
    while processes(name) and time.monotonic() < deadline:
        for number in processes(name):
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
    for part in ("root", "bpf"):
        sh("umount", "-l", str(folder / part), check=False)
    sh("ip", "netns", "del", name, check=False)
    sh("rm", "-rf", "--one-file-system", str(folder))
    for hierarchy in HIERARCHIES:
        for place, _folders, _files in os.walk(hierarchy / name, topdown=False):
            _rmdir(Path(place))


def _rmdir(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        return


def _kill_keeper(pid: int) -> None:
    """Only a process that is still ours: its session leader runs this module."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"python" in command or b"pytest" in command:
            os.kill(pid, signal.SIGKILL)
    except (OSError, ProcessLookupError):
        return
