# SPDX-License-Identifier: Apache-2.0
"""The distribution's Prometheus in the network of a lab host, with the files that the role wrote."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ADDRESS = "127.0.0.1:9090"


class Prometheus:
    """A running server. space: the network namespace that it lives in."""

    def __init__(self, space: str) -> None:
        self._space = space

    def ask(self, path: str) -> Any:
        """The data of an answer of its HTTP API; None while it does not answer."""
        done = subprocess.run(
            ["ip", "netns", "exec", self._space, "curl", "-sS", "-m", "5", f"http://{ADDRESS}/api/v1/{path}"],
            capture_output=True,
            text=True,
            check=False,
        )
        return json.loads(done.stdout)["data"] if done.returncode == 0 else None

    def value(self, query: str) -> dict[str, float]:
        """Label `instance` to the value of an instant query."""
        answer = self.ask(f"query?query={urllib.parse.quote(query)}") or {"result": []}
        return {row["metric"].get("instance", ""): float(row["value"][1]) for row in answer["result"]}

    def firing(self) -> set[tuple[str, str]]:
        """(alert, instance or peer that it is about) of what fires now."""
        answer = self.ask("alerts") or {"alerts": []}
        return {
            (alert["labels"]["alertname"], alert["labels"].get("instance") or alert["labels"].get("peer", ""))
            for alert in answer["alerts"]
            if alert["state"] == "firing"
        }


def hurried(folder: Path) -> Path:
    """The role's files, to be asked every second and to fire after two: minutes are for operators."""
    rules = folder / "wardmesh.rules.yml"
    rules.write_text(re.sub(r"for: \d+[mh]$", "for: 2s", rules.read_text(), flags=re.MULTILINE))
    config = folder / "prometheus.yml"
    config.write_text(config.read_text().replace("interval: 15s", "interval: 1s"))
    return config


@contextmanager
def running(space: str, config: Path, data: Path) -> Iterator[Prometheus]:
    """Started, ready, and stopped at the end."""
    process = subprocess.Popen(
        [
            *("ip", "netns", "exec", space, "prometheus"),
            *(f"--config.file={config}", f"--storage.tsdb.path={data}", f"--web.listen-address={ADDRESS}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = Prometheus(space)
    try:
        end = time.monotonic() + 60
        while server.ask("query?query=up") is None:
            assert process.poll() is None and time.monotonic() < end, "Prometheus did not start"
            time.sleep(0.3)
        yield server
    finally:
        process.terminate()
        process.wait(30)
