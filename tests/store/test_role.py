# SPDX-License-Identifier: Apache-2.0
"""The configuration that the role kvstore writes, given to a real etcd. The role itself runs in the lab."""

from __future__ import annotations

import subprocess
from pathlib import Path

import jinja2
import pytest
from etcd_server import free_port
from tests.certificates import Authority
from tests.conftest import REPO
from tests.waiting import wait_for

from wardmesh.discovery import etcd as client
from wardmesh.discovery.settings import Server, Settings
from wardmesh.model.errors import WardmeshError

TEMPLATE = REPO / "roles/kvstore/templates/etcd.yaml.j2"


def rendered(folder: Path, ports: tuple[int, int]) -> str:
    """As the role would write it for one host on loopback, with paths and ports of the test."""
    text = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False).from_string(
        TEMPLATE.read_text()
    )
    made = text.render(
        inventory_hostname="node1",
        wardmesh_kvstore_host="127.0.0.1",
        wardmesh_kvstore_client_urls="https://127.0.0.1:2379",
        wardmesh_kvstore_members=["node1=https://127.0.0.1:2380"],
        wardmesh_kvstore_quota=2147483648,
    )
    for old, new in (
        (":2379", f":{ports[0]}"),
        (":2380", f":{ports[1]}"),
        ("/etc/wardmesh/kvstore", str(folder)),
        ("/var/lib/etcd/wardmesh", str(folder / "data")),
    ):
        assert old in made
        made = made.replace(old, new)
    return made


def test_etcd_takes_the_configuration_and_asks_for_certificates(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path / "stranger")
    cert, key = authority.issue("host")
    ports = free_port(), free_port()
    (tmp_path / "etcd.yaml").write_text(rendered(tmp_path, ports))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["etcd", "--config-file", str(tmp_path / "etcd.yaml")], stdout=log, stderr=log
        )
    server = Server("127.0.0.1", ports[0], True)
    good = Settings((server,), ca=authority.ca, cert=cert, key=key)

    def serves() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        connection = client.Etcd(good, server)
        try:
            return connection.put("x", b"y") > 0
        except WardmeshError:
            return False
        finally:
            connection.close()

    try:
        wait_for(serves, "etcd serves", 30.0)
        other = stranger.issue("host")
        for settings in (
            Settings((server,), ca=authority.ca),
            Settings((server,), ca=authority.ca, cert=other[0], key=other[1]),
        ):
            with pytest.raises(WardmeshError):
                client.Etcd(settings, server).get("x")
    finally:
        process.kill()
        process.wait()
