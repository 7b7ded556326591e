# SPDX-License-Identifier: Apache-2.0
"""A lab: N hosts on one wire, made and torn down as a whole."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from lab import containers, machines
from lab.containers import sh
from lab.host import Host
from lab.image import SUITE, cache_dir, image
from lab.kernels import another

PROXY = "ip netns exec {ns} bash -c 'exec 3<>/dev/tcp/%h/%p; cat <&3 & cat >&3; kill $!'"
STARTERS = {"container": containers.start, "vm": machines.start}
BOOT_SECONDS = {"container": 180.0, "vm": machines.BOOT_SECONDS}


class Lab:
    """Hosts node1..nodeN at 10.99.0.I and fd99::I; the controller is 10.99.0.254 on their bridge."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = cache_dir() / "labs" / name
        self.bridge_ns = f"wl-{name}"
        self.image = image(self.suite)

    @property
    def kind(self) -> str:
        """What its hosts are: container or vm."""
        note = self.state / "kind"
        return note.read_text() if note.exists() else "container"

    @property
    def suite(self) -> str:
        """Debian's name of what its hosts run."""
        note = self.state / "suite"
        return note.read_text() if note.exists() else SUITE

    @property
    def _inotify(self) -> Path:
        """Keeps the machine's limit of inotify instances while there is any lab."""
        return cache_dir() / "inotify-before"

    @property
    def hosts(self) -> list[Host]:
        """The hosts that are there, by number."""
        numbers = sorted(int(path.name) for path in self.state.glob("[0-9]*"))
        return [self._host(number) for number in numbers]

    def _host(self, index: int) -> Host:
        line = self.state / "lines" / str(index)
        options = tuple(self.ssh_options())
        return Host(index, f"node{index}", f"10.99.0.{index}", f"fd99::{index:x}", options, line)

    def ssh_options(self) -> list[str]:
        """What ssh needs to reach a host of this lab from the machine's own namespace."""
        return [
            "-i",
            str(self.image / "id_lab"),
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "ConnectTimeout=5",
            "-o",
            "BatchMode=yes",
            "-o",
            f"ProxyCommand={PROXY.format(ns=self.bridge_ns)}",
        ]

    @classmethod
    def up(cls, count: int, name: str = "lab", kind: str = "container", suite: str = SUITE) -> Lab:
        """Bring up hosts 1..count; leftovers of an earlier lab of this name are removed first."""
        if kind not in STARTERS:
            raise ValueError(f"no such kind of host: {kind}")
        cls(name).down()
        state = cache_dir() / "labs" / name
        state.mkdir(parents=True)
        (state / "kind").write_text(kind)
        (state / "suite").write_text(suite)
        lab = cls(name)
        ns = lab.bridge_ns
        sh("ip", "netns", "add", ns)
        sh("ip", "-n", ns, "link", "set", "lo", "up")
        sh("ip", "-n", ns, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        sh("ip", "-n", ns, "addr", "add", "10.99.0.254/24", "dev", "br0")
        sh("ip", "-n", ns, "-6", "addr", "add", "fd99::fe/64", "dev", "br0", "nodad")
        sh("ip", "-n", ns, "link", "set", "br0", "up")
        lab.add(range(1, count + 1))
        return lab

    def add(self, numbers: range) -> list[Host]:
        """Start more hosts and wait until they answer."""
        if self.kind == "container":
            others = len(list(self.state.parent.glob("*/[0-9]*")))
            containers.make_room(self._inotify, others + len(numbers))
        for index in numbers:
            STARTERS[self.kind](self.image, self.state, self.name, index, self.bridge_ns)
        made = [self._host(index) for index in numbers]
        for host in made:
            self.wait(host)
        return made

    def wait(self, host: Host, command: str = "true") -> None:
        """Until SSH answers and the command succeeds."""
        deadline = time.monotonic() + BOOT_SECONDS[self.kind]
        while time.monotonic() < deadline:
            try:
                if host.run(command, check=False, timeout=10, fresh=True).returncode == 0:
                    host.open_line()
                    return
            except subprocess.TimeoutExpired:
                continue
            time.sleep(0.3)
        log = self.state / str(host.index) / "log"
        raise RuntimeError(
            f"{host.name} does not answer; {log}:\n{log.read_text()[-2000:] if log.exists() else ''}"
        )

    def reboot(self, host: Host) -> None:
        """An orderly restart, awaited; the disk stays, everything in memory goes."""
        host.run("touch /run/lab-before-reboot")
        host.hang_up()
        with contextlib.suppress(subprocess.TimeoutExpired):  # sshd may go without a word
            host.run("systemctl reboot", check=False, timeout=10)
        self.wait(host, "test ! -e /run/lab-before-reboot")

    def pull_cable(self, host: Host) -> None:
        """Cut a host off; nobody reaches it, the controller neither."""
        host.hang_up()
        sh("ip", "-n", self.bridge_ns, "link", "set", f"p{host.index}", "down")

    def plug_cable(self, host: Host) -> None:
        """The wire is there again; whether the host answers is not awaited."""
        sh("ip", "-n", self.bridge_ns, "link", "set", f"p{host.index}", "up")

    def cut_power(self, host: Host) -> None:
        """Kill a machine where it stands; its disk stays as it is at that moment."""
        host.hang_up()
        machines.stop(self.state / str(host.index))

    def power_on(self, host: Host) -> None:
        """Boot a machine whose power was cut, and wait until it answers."""
        machines.start(self.image, self.state, self.name, host.index, self.bridge_ns)
        self.wait(host)

    def install_kernel(self, host: Host, release: str) -> None:
        """As its package would: modules and headers onto a machine's disk, and its next start takes it."""
        trees = another(self.image, release)
        for tree, folder in (("kernel-tree", "lib/modules"), ("headers-tree", "usr/src")):
            pack = ["tar", "-C", str(trees / tree), "-cf", "-", "--exclude=build", "--exclude=source", folder]
            with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
                unpack = [*host.ssh_command(), "tar -C / --keep-directory-symlink -xf -"]
                subprocess.run(unpack, stdin=packing.stdout, check=True, timeout=600)
        host.run(f"depmod {release}; sync", timeout=600)
        (self.state / str(host.index) / machines.KERNEL).write_text(release)

    def power_off(self, host: Host) -> None:
        """Take a host away for good."""
        self._destroy(host.index)
        sh("ip", "-n", self.bridge_ns, "link", "del", f"p{host.index}", check=False)

    def _destroy(self, index: int) -> None:
        self._host(index).hang_up()
        machines.destroy(self.state, index, self.bridge_ns)
        containers.destroy(self.state, self.name, index)

    def down(self) -> None:
        """Remove everything of this lab, also what a killed run left."""
        numbers = {int(path.name) for path in self.state.glob("[0-9]*")}
        prefix = f"wl-{self.name}-"
        for line in sh("ip", "netns", "list").splitlines():
            tail = line.split()[0].removeprefix(prefix)
            if line.startswith(prefix) and tail.isdigit():
                numbers.add(int(tail))
        for index in sorted(numbers):
            self._destroy(index)
        sh("ip", "netns", "del", self.bridge_ns, check=False)
        sh("rm", "-rf", "--one-file-system", str(self.state))
        if not any(self.state.parent.glob("*")):
            containers.give_room_back(self._inotify)

    def inventory(self, path: Path, group: str = "wardmesh") -> Path:
        """Write an Ansible inventory of the hosts."""
        # A control path of this lab's own: a master that outlived an earlier lab would hang.
        sockets = self.state / "ssh"
        sockets.mkdir(mode=0o700, exist_ok=True)
        options = " ".join(
            _quote(item) for item in [*self.ssh_options()[2:], "-o", f"ControlPath={sockets}/%h-%r"]
        )
        lines = [
            "all:",
            "  vars:",
            "    ansible_user: root",
            "    ansible_python_interpreter: /usr/bin/python3",
            f"    ansible_ssh_private_key_file: {self.image}/id_lab",
            f"    ansible_ssh_common_args: {_yaml(options)}",
            "  children:",
            f"    {group}:",
            "      hosts:",
        ]
        for host in self.hosts:
            lines += [f"        {host.name}:", f"          ansible_host: {host.address}"]
        path.write_text("\n".join(lines) + "\n")
        return path

    @contextlib.contextmanager
    def capture(self, path: Path) -> Iterator[Path]:
        """Every frame on the wire while the block runs, into a pcap file."""
        process = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                self.bridge_ns,
                "tcpdump",
                "-i",
                "br0",
                "-U",
                "--immediate-mode",
                "-Z",
                "root",
                "-s",
                "0",
                "-B",
                "8192",
                "-w",
                str(path),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        process.stderr.readline()  # "listening on …": the capture has begun
        try:
            yield path
        finally:
            time.sleep(0.3)
            process.terminate()
            process.communicate(timeout=10)


def _quote(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"' if " " in text else text


def _yaml(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
