# SPDX-License-Identifier: Apache-2.0
"""Running commands with their output in a log, a time limit, and a word now and then about what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, Optional

REPO = Path(__file__).resolve().parents[2]
LOGS = REPO / ".build" / "logs"
HEARTBEAT_SECONDS = 20.0
TIMED_OUT = 124  # the exit status that coreutils' timeout uses for the same thing


def _last_line(log: Path) -> str:
    """The last non-empty line of a log, shortened; empty when there is none yet."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 2000))
            lines = stream.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:100] for line in reversed(lines) if line.strip()), "")


def processors() -> Callable[[], float]:
    """The share of all processors' time that was used since this call, 0 to 1, whenever it is asked for."""

    def used() -> tuple[int, int]:
        fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields) - fields[3] - fields[4], sum(fields)  # the fourth and fifth are idle and iowait

    busy, total = used()

    def share() -> float:
        now_busy, now_total = used()
        return (now_busy - busy) / max(1, now_total - total)

    return share


@dataclass
class Progress:
    """Prints lines with the elapsed time in front, and a heartbeat that names what is still running."""

    started: float = field(default_factory=time.monotonic)
    running: dict[str, Path] = field(default_factory=dict)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    thread: threading.local = field(default_factory=threading.local)

    def say(self, line: str) -> None:
        """Print one line, never mixed with another thread's."""
        with self.lock:
            print(f"[{time.monotonic() - self.started:6.1f}s] {line}", flush=True)

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """While the block runs, name every HEARTBEAT_SECONDS what is running and the last line it wrote."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(HEARTBEAT_SECONDS):
                with self.lock:
                    current = dict(self.running)
                for name, log in current.items():
                    self.say(f"  {name} is running: {_last_line(log)}")

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def stop_all(self) -> None:
        """End the process groups that this run started and that are still there."""
        with self.lock:
            processes = list(self.processes.values())
        for process in processes:
            _end_group(process)

    @contextmanager
    def behind(self, niceness: int) -> Iterator[None]:
        """What this thread runs in the block takes the processors after others: 19 only what they leave."""
        self.thread.behind = niceness
        try:
            yield
        finally:
            self.thread.behind = 0

    def run(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        limit: float,
        env: Optional[Mapping[str, str]] = None,
        cwd: Path = REPO,
    ) -> int:
        """Run `argv` with both outputs in `log`; the exit status, or TIMED_OUT after `limit` seconds."""
        log.parent.mkdir(parents=True, exist_ok=True)
        behind = getattr(self.thread, "behind", 0)
        with log.open("wb") as stream:
            stream.write(f"$ {' '.join(argv)}\n".encode())
            stream.flush()
            process = subprocess.Popen(
                ["nice", "-n", str(behind), *argv] if behind else list(argv),
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            if behind:
                with suppress(
                    OSError
                ):  # a kernel that shares time among sessions first, and then by niceness
                    Path(f"/proc/{process.pid}/autogroup").write_text(str(behind))
            with self.lock:
                self.running[name] = log
                self.processes[process.pid] = process
            try:
                return process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                stream.write(f"\nended: it took longer than {limit:.0f} s\n".encode())
                _end_group(process)
                return TIMED_OUT
            finally:
                with self.lock:
                    self.running.pop(name, None)
                    self.processes.pop(process.pid, None)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask the process group to end (tests tear their hosts down on SIGINT), then insist."""
    for number, patience in ((signal.SIGINT, 30.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=patience)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def log_tail(log: Path, lines: int) -> str:
    """The last lines of a log, indented, for the terminal."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else "(no log)"
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines()[-lines:])
