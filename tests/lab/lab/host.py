# SPDX-License-Identifier: Apache-2.0
"""A lab host as tests see it: commands by SSH.

A login took 0.6 s on two busy processors, a command over a connection that is there 0.05 s, and tests make
thousands. So one stays open beside each host, and commands go over it as long as it is there.
"""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path


class Dialogue:
    """A program on a host that answers each line with a line."""

    def __init__(self, argv: list[str]) -> None:
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line: str = "") -> str:
        """Send a line; the answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.communicate(timeout=10)


@dataclass(frozen=True)
class Host:
    """One host; options are those of ssh without the destination; line: the socket of the connection that is
    kept open."""

    index: int
    name: str
    address: str
    address6: str
    options: tuple[str, ...]
    line: Path

    def ssh_command(self, *more: str) -> list[str]:
        """ssh by a connection of its own, with everything but the remote command."""
        return ["ssh", *self.options, *more, f"root@{self.address}"]

    def open_line(self) -> None:
        """Keep a connection from now on. It ends when the host is silent for a minute."""
        self.hang_up()
        self.line.parent.mkdir(mode=0o700, exist_ok=True)
        alive = ("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=6")
        argv = self.ssh_command("-M", "-N", "-f", "-S", str(self.line), *alive)
        null = subprocess.DEVNULL
        subprocess.run(argv, stdin=null, stdout=null, stderr=null, check=False, timeout=60)

    def hang_up(self) -> None:
        """End it, before the host goes or is cut off; commands make connections of their own then."""
        if self.line.exists():
            argv = self.ssh_command("-S", str(self.line), "-O", "exit")
            subprocess.run(argv, capture_output=True, check=False, timeout=60)
            self.line.unlink(missing_ok=True)

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        stdin: str | None = None,
        timeout: float = 180,
        fresh: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root; on a failure with check, the error holds both outputs. fresh: by a new
        login, where that is what counts."""
        kept = () if fresh else ("-S", str(self.line))
        done = subprocess.run(
            [*self.ssh_command(*kept), command],
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(
                f"{self.name}: {command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def popen(self, command: str) -> subprocess.Popen[str]:
        """Start a command and go on."""
        return subprocess.Popen(
            [*self.ssh_command(), command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def popen_in(self, command: str) -> Dialogue:
        """Start a program that is asked now and then."""
        return Dialogue([*self.ssh_command(), command])

    def put(self, source: Path, target: str, mode: str = "0644") -> None:
        """Copy a file to the host."""
        quoted = shlex.quote(target)
        with open(source, "rb") as stream:
            subprocess.run(
                [*self.ssh_command("-S", str(self.line)), f"cat > {quoted} && chmod {mode} {quoted}"],
                stdin=stream,
                check=True,
                timeout=60,
            )
