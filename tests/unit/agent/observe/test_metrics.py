# SPDX-License-Identifier: Apache-2.0
"""The exposition as Prometheus reads it, its size, and who may ask for it."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import sys
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.unit.agent.observe.metrics_fakes import snapshot

from wardmesh.model.errors import WardmeshError
from wardmesh.observe import metrics
from wardmesh.observe.metrics import CONNECTIONS_MAX, Exposition, MetricsServer, admission, admitted
from wardmesh.observe.metrics_flows import FlowCounters
from wardmesh.observe.metrics_model import METRICS
from wardmesh.observe.metrics_samples import PEERS_MAX, samples

MIB = 1 << 20


def text_of(peers=2, most=PEERS_MAX):
    flows = FlowCounters()
    flows.lose(1, 1)
    shot = snapshot(peers)
    return Exposition(lambda: samples(shot, flows.totals(), most)).text().decode()


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_what_is_served_parses_and_has_the_tables_types_and_helps():
    found = families(text_of(200))
    for metric in METRICS:
        name = metric.name[: -len("_total")] if metric.kind == "counter" else metric.name
        if name in found:
            assert (found[name].type, found[name].documentation) == (metric.kind, metric.help)
    assert len(found) > 40


def test_label_values_survive_the_format():
    found = families(text_of())
    rows = {frozenset(sample.labels.values()): sample.value for sample in found["cilium_drop_count"].samples}
    assert rows[frozenset({"Traffic is unencrypted", "EGRESS"})] == 3
    histogram = {s.labels.get("le"): s.value for s in found["cilium_policy_implementation_delay"].samples}
    assert (histogram["0.1"], histogram["1.0"], histogram["+Inf"]) == (3, 4, 5)


@pytest.mark.parametrize("peers", [1000, 10_000])
def test_a_large_fleet_stays_below_five_mebibytes(peers):
    text = text_of(peers)
    series = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(text) < 5 * MIB
    assert len(series) < 8 * PEERS_MAX + 300  # four of the tunnel, four of the checks
    assert f'cilium_wireguard_peers{{state="down"}} {peers // 100}.0' in series


def test_the_size_does_not_grow_beyond_the_limit_of_peers():
    small, large = len(text_of(1000, 100)), len(text_of(10_000, 100))
    assert large - small < 200  # in the larger one those that do not answer fill the room, with fewer series


def test_a_thousand_scrapes_read_the_host_once():
    now, reads = [100.0], []

    def read():
        reads.append(1)
        return samples(snapshot())

    exposition = Exposition(read, lambda: now[0])
    for _ in range(1000):
        exposition.text()
    assert len(reads) == 1
    now[0] += 1.5
    exposition.text()
    assert len(reads) == 2


@pytest.fixture
def serve():
    servers = []

    def start(admits=lambda _address: True, read=lambda: samples(snapshot()), addresses=("127.0.0.1",)):
        server = MetricsServer(addresses, 0, read, admits)
        servers.append(server)
        return server.ports[0]

    yield start
    for server in servers:
        server.close()


def get(port, path="/metrics", host="127.0.0.1"):
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_it_serves_metrics_and_nothing_else(serve):
    port = serve()
    status, data = get(port)
    assert status == 200
    assert b"cilium_wireguard_peers" in data
    assert get(port, "/")[0] == 404
    assert get(port, "/metrics?x=1")[0] == 200


def test_a_reading_that_breaks_is_answered_and_the_next_one_served(serve):
    broken = [True]

    def read():
        if broken.pop() if broken else False:
            raise RuntimeError("boom")
        return samples(snapshot())

    port = serve(read=read)
    assert get(port) == (500, b"RuntimeError: boom\n")
    assert get(port)[0] == 200


def test_whoever_is_not_admitted_gets_no_byte(serve):
    port = serve(admits=lambda _address: False)
    with pytest.raises((http.client.HTTPException, OSError)):
        get(port)


@pytest.mark.parametrize(
    "request_line",
    [
        b"\0\xff\xfe garbage\r\n\r\n",
        b"GET",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"A" * 100_000,
        b"POST /metrics HTTP/1.1\r\n\r\n",
    ],
)
def test_nonsense_does_not_end_the_server(serve, request_line):
    port = serve()
    link = socket.create_connection(("127.0.0.1", port), timeout=10)
    with link, contextlib.suppress(OSError):  # it may hang up before it has read all
        link.sendall(request_line)
        link.shutdown(socket.SHUT_WR)
        while link.recv(65536):
            pass
    assert get(port)[0] == 200


def test_clients_that_never_ask_take_a_bounded_number_of_threads(serve):
    port = serve()
    before = threading.active_count()
    links = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(CONNECTIONS_MAX + 40)]
    try:
        # The server closes those beyond the limit: reading them ends at once.
        closed = 0
        for link in links[CONNECTIONS_MAX:]:
            try:
                closed += link.recv(1) == b""
            except ConnectionResetError:
                closed += 1
        assert closed == 40
        assert threading.active_count() - before <= CONNECTIONS_MAX
    finally:
        for link in links:
            link.close()


def test_a_taken_port_is_an_error_that_names_it(serve):
    port = serve()
    with pytest.raises(WardmeshError, match=f"127.0.0.1 port {port}"):
        MetricsServer(["127.0.0.1"], port, list, lambda _address: True)


def test_an_address_that_the_host_does_not_have_yet_can_be_listened_on(serve):
    assert serve(addresses=("203.0.113.77",))


@pytest.mark.parametrize(
    ("address", "admits"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("10.0.0.2", True),
        ("10.0.0.3", False),
        ("10.9.1.1", True),
        ("10.10.0.1", False),
        ("fd00::2", True),
        ("fd00::3", False),
        ("fe80::1%eth0", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_loopback_and_members_may_read(address, admits):
    known = admitted([ipaddress.ip_network(net) for net in ("10.0.0.2/32", "fd00::2/128", "10.9.0.0/16")])
    assert admission(lambda: known)(address) is admits


def test_without_the_library_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(WardmeshError) as caught:
        metrics.library()
    assert "python3-prometheus-client" in caught.value.remedy
