# SPDX-License-Identifier: Apache-2.0
"""Real etcd processes on loopback, one or several, and etcdctl towards them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.certificates import Authority
from tests.waiting import wait_for

from wardmesh.discovery.settings import Server, Settings

STARTS_WITHIN = 30.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Member:
    """One etcd process."""

    name: str
    folder: Path
    client: int
    peer: int
    process: subprocess.Popen[bytes] | None = None

    def end(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@dataclass
class Etcd:
    """A cluster of so many processes. extra: further flags of every one."""

    folder: Path
    count: int = 1
    tls: bool = False
    extra: tuple[str, ...] = ()
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.authority = Authority(self.folder / "tls") if self.tls else None
        for number in range(self.count):
            name = f"e{number}"
            self.members.append(Member(name, self.folder / name, free_port(), free_port()))
        if self.authority:
            self.authority.issue("server")
            self.authority.issue("root")

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def initial(self) -> str:
        return ",".join(f"{m.name}=http://127.0.0.1:{m.peer}" for m in self.members)

    def start(self) -> Etcd:
        for member in self.members:
            self.run(member)
        self.ready()
        return self

    def ready(self) -> None:
        wait_for(lambda: self._ctl("get", "nothing").returncode == 0, "etcd serves", STARTS_WITHIN)

    def run(self, member: Member) -> None:
        url = f"{self.scheme}://127.0.0.1:{member.client}"
        argv = ["etcd", "--name", member.name, "--data-dir", str(member.folder)]
        argv += ["--listen-client-urls", url, "--advertise-client-urls", url]
        argv += ["--listen-peer-urls", f"http://127.0.0.1:{member.peer}"]
        argv += ["--initial-advertise-peer-urls", f"http://127.0.0.1:{member.peer}"]
        argv += ["--initial-cluster", self.initial, "--heartbeat-interval", "50", "--election-timeout", "500"]
        argv += ["--unsafe-no-fsync"] if b"unsafe-no-fsync" in _help() else []
        if self.authority:
            folder = self.authority.folder
            argv += ["--cert-file", str(folder / "server.crt"), "--key-file", str(folder / "server.key")]
            argv += ["--trusted-ca-file", str(self.authority.ca), "--client-cert-auth"]
        log = (self.folder / f"{member.name}.log").open("ab")
        env = {**os.environ, "ETCD_UNSUPPORTED_ARCH": ""}
        member.process = subprocess.Popen([*argv, *self.extra], stdout=log, stderr=log, env=env)

    def end(self) -> None:
        for member in self.members:
            member.end()

    # --- etcdctl ---

    def _argv(self) -> list[str]:
        up = [m for m in self.members if m.process is not None]
        argv = ["etcdctl", "--endpoints", ",".join(f"{self.scheme}://127.0.0.1:{m.client}" for m in up)]
        if self.authority:
            folder = self.authority.folder
            argv += ["--cacert", str(self.authority.ca)]
            argv += ["--cert", str(folder / "root.crt"), "--key", str(folder / "root.key")]
        return [*argv, "--command-timeout", "5s"]

    def _ctl(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._argv(), *words],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "ETCDCTL_API": "3"},
        )

    def ctl(self, *words: str, text: str = "") -> str:
        """etcdctl with root's rights."""
        done = self._ctl(*words, text=text)
        assert done.returncode == 0, f"etcdctl {words}: {done.stderr}{done.stdout}"
        return done.stdout

    def revision(self) -> int:
        return int(json.loads(self.ctl("get", "nothing", "-w", "json"))["header"]["revision"])

    def keys(self) -> list[str]:
        return self.ctl("get", "cilium/", "--prefix", "--keys-only").split()

    def user(self, name: str, *grants: tuple[str, str, bool]) -> None:
        """A user known by its certificate. grants: (read|write|readwrite, key, prefix)."""
        self.ctl("role", "add", name)
        for kind, key, prefix in grants:
            self.ctl("role", "grant-permission", *(["--prefix=true"] if prefix else []), name, kind, key)
        self.ctl("user", "add", name, "--no-password")
        self.ctl("user", "grant-role", name, name)

    def restore(self, snapshot: Path) -> None:
        """Start anew from a backup, as a new cluster behind the same addresses."""
        self.end()
        for member in self.members:
            shutil.rmtree(member.folder)
            argv = ["etcdctl", "snapshot", "restore", str(snapshot), "--name", member.name]
            argv += ["--data-dir", str(member.folder), "--initial-cluster", self.initial]
            argv += ["--initial-advertise-peer-urls", f"http://127.0.0.1:{member.peer}"]
            subprocess.run(argv, check=True, capture_output=True, env={**os.environ, "ETCDCTL_API": "3"})
        self.start()

    def settings(self, user: str = "", **more: Any) -> Settings:
        """How an agent gets in."""
        servers = tuple(Server("127.0.0.1", member.client, self.tls) for member in self.members)
        if self.authority:
            cert, key = self.authority.issue(user or "root")
            more = {"ca": self.authority.ca, "cert": cert, "key": key, **more}
        return Settings(servers, **{"lease": 5.0, "grace": 60.0, **more})


def _help() -> bytes:
    return subprocess.run(["etcd", "--help"], capture_output=True, check=False).stdout
