# SPDX-License-Identifier: Apache-2.0
"""A lab host as tests see it: commands by SSH."""

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
    """One host; options are those of ssh without the destination."""

    index: int
    name: str
    address: str
    address6: str
    options: tuple[str, ...]

    def ssh_command(self) -> list[str]:
        """ssh with everything but the remote command."""
        return ["ssh", *self.options, f"root@{self.address}"]

    def run(
        self, command: str, *, check: bool = True, stdin: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root; on a failure with check, the error holds both outputs."""
        done = subprocess.run(
            [*self.ssh_command(), command],
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
                [*self.ssh_command(), f"cat > {quoted} && chmod {mode} {quoted}"],
                stdin=stream,
                check=True,
                timeout=60,
            )
