# SPDX-License-Identifier: Apache-2.0
"""Where metrics come from on a host, `wardmesh metrics list`, and the server of the observer."""

from __future__ import annotations

import datetime
import http.client
import json
import socket

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.unit.agent.daemon.fakes import make_host, map_bytes
from tests.unit.agent.observe.test_metrics_model import STATUS

from wardmesh.api.server import Server
from wardmesh.cli import metrics
from wardmesh.cli.main import main
from wardmesh.cli.metric_sources import Sources
from wardmesh.model.config import parse_config
from wardmesh.model.errors import WardmeshError
from wardmesh.observe.metrics_flows import FlowCounters

CPU = "sys/fs/cgroup/system.slice/system-wardmesh\\x2dwireguard.slice/wardmesh-wireguard@wardmesh_wg0.service"
END = datetime.datetime(2031, 5, 4, 3, 2, 1, tzinfo=datetime.UTC)


def free_port():
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return link.getsockname()[1]


@pytest.fixture
def host(tmp_path):
    """A relocated host with a map of two, and an agent that answers."""
    paths = make_host(tmp_path, map_bytes(3, ("node1", "node2")))
    asked = []

    def endpoints(_body):
        asked.append(1)
        return {"endpoints": [{"ingress": "Enabled", "egress": "Disabled"}]}

    routes = {("GET", "/v1/status"): lambda _body: STATUS, ("GET", "/v1/endpoints"): endpoints}
    server = Server(paths.socket, routes)
    yield paths, asked
    server.close()


def certificate(path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hubble")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(END - datetime.timedelta(days=9))
        .not_valid_after(END)
        .sign(key, hashes.SHA256())
    )
    path.parent.mkdir(parents=True)
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))


def test_a_snapshot_has_what_the_host_says(host):
    paths, asked = host
    cgroup = paths.root / CPU
    cgroup.mkdir(parents=True)
    (cgroup / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\nsystem_usec 2\n")
    certificate(paths.etc / "tls/hubble.crt")
    sources = Sources(paths)
    found = sources.snapshot()
    assert found.agent is not None
    assert found.agent.name == "web1"
    assert found.enforced == ("Enabled", "Disabled")
    assert found.encrypt_cpu == 2.5
    assert found.certificates == {"hubble": END.timestamp()}
    assert found.identities == {"reserved": 5, "cluster_local": 2}
    assert "guard" in found.failed  # nothing is pinned here
    sources.snapshot()
    assert len(asked) == 1  # the policies' answer is dear, and was the same


def test_without_wireguard_go_its_time_is_absent_and_not_zero(host):
    assert Sources(host[0]).snapshot().encrypt_cpu is None


def test_what_is_broken_is_named_and_the_rest_is_there(host):
    paths, _asked = host
    paths.fleet.write_bytes(b"{")
    (paths.etc / "tls").mkdir()
    (paths.etc / "tls/bad.crt").write_text("no certificate")
    found = Sources(paths).snapshot()
    assert {"fleet", "certificates"} <= set(found.failed)
    assert found.identities is None
    assert found.agent is not None


def test_without_an_agent_there_is_a_snapshot_too(tmp_path):
    found = Sources(make_host(tmp_path, None)).snapshot()
    assert found.agent is None
    assert "agent" in found.failed


def test_members_and_admitted_networks_may_read(host):
    paths, _asked = host
    paths.config.write_text("cluster: {name: test, id: 1}\nprometheus: {admit: [192.0.2.0/24]}\n")
    known = Sources(paths).members()
    assert {str(address) for address in known.addresses} == {"10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"}
    assert [str(network) for network in known.networks] == ["192.0.2.0/24"]


def test_a_damaged_map_changes_nothing_about_who_may_read(host):
    paths, _asked = host
    sources = Sources(paths)
    known = sources.members()
    paths.fleet.write_bytes(b"{")
    assert known.addresses
    assert sources.members() == known
    assert metrics.listen_addresses(paths, parse_config(paths.config.read_text(), "c")) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("prometheus: {listenAddresses: [here]}", "listenAddresses"),
        ("prometheus: {admit: [10.0.0.1/8]}", "admit"),
        ("prometheus: {peersMax: -1}", "peersMax"),
    ],
)
def test_wrong_settings_are_refused(text, problem):
    with pytest.raises(WardmeshError) as caught:
        parse_config(text, "config.yaml")
    assert problem in caught.value.why


def test_metrics_are_off_unless_the_configuration_says_so(host):
    assert metrics.serve(host[0]) is None


def test_the_observer_serves_this_hosts_figures_and_its_flows(host, capsys):
    paths, _asked = host
    port = free_port()
    served = f"prometheus: {{enabled: true, port: {port}, listenAddresses: [127.0.0.2]}}"
    paths.config.write_text(f"cluster: {{name: test, id: 1}}\n{served}\n")
    flows = FlowCounters()
    flows.lose(1, 42)
    server = metrics.serve(paths, flows)
    assert server is not None
    try:
        for address in ("127.0.0.1", "127.0.0.2"):
            connection = http.client.HTTPConnection(address, port, timeout=10)
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
            connection.close()
            assert 'hubble_lost_events_total{source="perf_event_ring_buffer"} 42.0' in text
        assert (
            main(["--root", str(paths.root), "metrics", "list", "-p", "lost|strict_mode", "-o", "json"]) == 0
        )
    finally:
        server.close()
    rows = json.loads(capsys.readouterr().out)["metrics"]
    assert {"name": "wardmesh_strict_mode", "labels": {}, "value": 0.0} in rows
    assert [row["value"] for row in rows if row["labels"].get("source") == "perf_event_ring_buffer"] == [42.0]
    assert all("lost" in row["name"] or "strict_mode" in row["name"] for row in rows)


def test_by_default_the_members_own_addresses_are_listened_on(host):
    paths, _asked = host
    config = parse_config(paths.config.read_text(), "c")
    assert metrics.listen_addresses(paths, config) == ["10.0.0.1", "fd00::1"]
    paths.fleet.unlink()
    assert metrics.listen_addresses(paths, config) == []


def test_the_list_works_without_an_observer(host, capsys):
    paths, _asked = host
    assert main(["--root", str(paths.root), "metrics", "list", "-p", "^cilium_wireguard_peers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["Metric", "Labels", "Value"]
    assert ["cilium_wireguard_peers", 'state="up"', "1.000000"] in [line.split() for line in lines]


def test_a_pattern_that_is_none_is_an_error(host, capsys):
    assert main(["--root", str(host[0].root), "metrics", "list", "-p", "("]) == 1
    assert "regular expression" in capsys.readouterr().err
