# SPDX-License-Identifier: Apache-2.0
"""Members of a store in the engine: they come and go like those of a new map; nothing opens by accident."""

from __future__ import annotations

import base64
import ipaddress

import pytest
from tests.loading import load

from wardmesh.cli.fleet import fleet_in_force
from wardmesh.cli.main import main
from wardmesh.daemon.discovering import order_of
from wardmesh.daemon.engine import Engine
from wardmesh.daemon.inputs import load_inputs, load_or_last_good, load_successor
from wardmesh.daemon.modes import set_mode
from wardmesh.daemon.view import View
from wardmesh.datapath.contract import MEMBER, STRICT
from wardmesh.discovery.document import Claim, Departed, Discovered, write_discovered
from wardmesh.discovery.process import read_order
from wardmesh.model.config import Cluster
from wardmesh.model.errors import WardmeshError
from wardmesh.model.identity import identities
from wardmesh.model.map_parser import parse_member

fakes = load("tests/unit/agent/daemon/fakes.py")

TEST = Cluster("test", 1)
CONFIG = "cluster: {name: test, id: 1}\netcd: {endpoints: ['https://203.0.113.5:2379']}\n"


def claim(number: int, **more) -> Claim:
    name = f"node{number}"
    item = {"name": name, "key": fakes.key_of(name), "addresses": [f"10.0.0.{number}"], **more}
    return Claim(parse_member(item, "test"), number)


def net(number: int):
    return ipaddress.ip_network(f"10.0.0.{number}/32")


class Host(fakes.StoreHost):
    """An engine whose configuration has a store, and the file that the store's process writes."""

    config = CONFIG

    def learn(self, *claims: Claim, departed: tuple[Claim, ...] = (), cluster: Cluster = TEST) -> None:
        found = Discovered(
            cluster,
            {item.member.name: item for item in claims},
            {item.member.name: Departed(item, 600.0) for item in departed},
        )
        self.paths.discovered.write_bytes(write_discovered(found))

    def seal(self, engine: Engine, *numbers: int) -> None:
        for number in numbers:
            self.machine.handshake(f"node{number}", self.wall)
        engine.reconcile()
        if engine.state.mode != "strict":
            set_mode(engine, "strict")
        self.clock.now += 5.1
        engine.reconcile()


def peers(engine: Engine) -> set[str]:
    return {member.name for member in engine.mesh.others}


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_without_a_store_in_the_configuration_the_file_counts_for_nothing(host):
    host.paths.config.write_text("cluster: {name: test, id: 1}\n")
    host.learn(claim(3))
    engine = host.start()
    assert engine.rediscover() == []
    assert peers(engine) == {"node2"}
    assert engine.inputs.fleet is engine.inputs.rolled_out
    assert order_of(engine.inputs, host.paths) is None
    assert "discovery" not in View(engine).status()


def test_a_member_of_the_store_is_handled_like_one_of_a_new_map(host):
    engine = host.start()
    host.seal(engine, 2)
    host.learn(claim(3))
    engine.rediscover()
    assert peers(engine) == {"node2", "node3"}
    assert host.machine.entries[net(3)][1] == MEMBER
    host.seal(engine, 3)
    assert host.machine.entries[net(3)][1] == MEMBER | STRICT


def test_names_and_identities_of_all_are_there_for_the_observer_and_the_command_line(host):
    engine = host.start()
    assert host.paths.fleet_in_force == host.paths.fleet
    host.learn(claim(3, labels={"app": "web"}, keepalive=25, allowedIPs=["10.9.0.0/24"]), claim(4))
    host.paths.config.write_text(CONFIG + "discovery: {networks: [10.0.0.0/8]}\n")
    engine.reload()
    shared = fleet_in_force(host.paths)
    assert shared.members == engine.inputs.fleet.members
    assert identities(shared) == dict(engine.mesh.numbers)
    host.paths.config.write_text("cluster: {name: test, id: 1}\n")
    engine.reload()
    assert host.paths.fleet_in_force == host.paths.fleet


def test_the_same_file_again_is_no_new_map(host):
    host.learn(claim(3))
    engine = host.start()
    host.machine.calls.clear()
    assert engine.rediscover() == []
    assert host.machine.calls == []


POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: web}
spec:
  nodeSelector: {}
  ingress:
  - fromEntities: [cluster]
"""


def test_other_policies_leave_the_fleet_as_it_is(host):
    """The same objects, which are equal to what the files give: they cost nothing that grows with it."""
    host.learn(claim(3))
    engine = host.start()
    host.paths.policies.mkdir(parents=True, exist_ok=True)
    (host.paths.policies / "web.yaml").write_text(POLICY)
    new = load_successor(host.paths, engine.inputs)
    assert new.mesh is engine.mesh and new.fleet is engine.inputs.fleet
    assert [policy.name for policy in new.policies.policies] == ["web"]
    data = host.paths.discovered.read_bytes()
    assert new == load_inputs(
        host.paths, host.paths.config, host.paths.fleet, host.paths.policies, "node1", data
    )


def test_what_comes_together_with_other_policies_counts_too(host):
    host.learn(claim(3))
    engine = host.start()
    host.paths.policies.mkdir(parents=True, exist_ok=True)
    (host.paths.policies / "web.yaml").write_text(POLICY)
    host.learn(claim(3), claim(4))
    assert "node4" in {member.name for member in load_successor(host.paths, engine.inputs).mesh.others}
    host.paths.config.write_text(CONFIG + "debug: {enabled: true}\n")
    assert load_successor(host.paths, engine.inputs).config.log_level == "debug"
    host.paths.discovered.write_bytes(b"cut sho")
    assert "node3" in {member.name for member in load_successor(host.paths, engine.inputs).mesh.others}
    (host.paths.policies / "web.yaml").write_text("")
    with pytest.raises(WardmeshError, match="no policy"):
        load_successor(host.paths, engine.inputs)


def test_a_key_that_no_map_knows_is_refused_with_other_policies_too(host):
    engine = host.start()
    note = host.paths.key.with_suffix(".json")
    note.write_text(note.read_text().replace(fakes.OWN_KEY, fakes.key_of("other")))
    with pytest.raises(WardmeshError, match=r"under another key|not in the fleet map"):
        load_successor(host.paths, engine.inputs)


def test_a_sealed_member_whose_lease_is_gone_is_no_peer_and_stays_sealed(host):
    host.learn(claim(3))
    engine = host.start()
    host.seal(engine, 2, 3)
    host.learn(departed=(claim(3),))
    engine.rediscover()
    assert peers(engine) == {"node2"}
    assert net(3) not in host.machine.routes
    assert host.machine.entries[net(3)][1] == MEMBER | STRICT
    again = host.start()
    assert host.machine.entries[net(3)][1] == MEMBER | STRICT, "nor does a restart open it"
    host.learn(claim(3))
    again.rediscover()
    assert host.machine.entries[net(3)][1] == MEMBER | STRICT, "coming back it is sealed at once"
    assert net(3) in host.machine.routes
    host.learn()
    again.rediscover()
    assert net(3) not in host.machine.entries


def test_a_host_that_serves_the_store_keeps_departed_members_as_peers(host):
    host.paths.config.write_text(CONFIG.replace("203.0.113.5", "10.0.0.1"))
    host.learn(departed=(claim(3),))
    assert peers(host.start()) == {"node2", "node3"}
    host.paths.config.write_text(CONFIG.replace("203.0.113.5", "127.0.0.1"))
    assert peers(host.start()) == {"node2", "node3"}


def test_a_departed_member_that_was_never_sealed_is_a_stranger(host):
    host.learn(claim(3))
    engine = host.start()
    host.learn(departed=(claim(3),))
    engine.rediscover()
    assert net(3) not in host.machine.entries


def test_a_member_of_the_map_stays_whatever_the_store_says(host):
    engine = host.start()
    host.seal(engine, 2)
    host.learn(departed=(claim(2),))
    engine.rediscover()
    assert peers(engine) == {"node2"}
    assert host.machine.entries[net(2)][1] == MEMBER | STRICT


def test_labels_of_the_store_are_in_force_for_others_and_for_this_host(host):
    engine = host.start()
    own = Claim(engine.mesh.own, 1)
    host.learn(
        claim(2, labels={"app": "db"}),
        Claim(
            parse_member(
                {"name": "node1", "key": own.member.key, "addresses": ["10.0.0.1"], "labels": {"app": "web"}},
                "t",
            ),
            1,
        ),
    )
    engine.rediscover()
    assert engine.mesh.others[0].labels == {"app": "db"}
    assert engine.mesh.own.labels == {"app": "web"}


def test_a_restart_without_store_and_file_keeps_the_members(host):
    host.learn(claim(3))
    engine = host.start()
    host.paths.discovered.unlink()
    assert engine.rediscover() == []
    assert peers(engine) == {"node2", "node3"}
    assert peers(host.start()) == {"node2", "node3"}


@pytest.mark.parametrize("data", [b"", b"{", b"null", b'{"format":1}'])
def test_a_damaged_file_changes_nothing_and_keeps_no_new_map_away(host, data):
    host.learn(claim(3))
    engine = host.start()
    host.paths.discovered.write_bytes(data)
    with pytest.raises(WardmeshError):
        engine.rediscover()
    assert peers(engine) == {"node2", "node3"}
    host.paths.fleet.write_bytes(fakes.map_bytes(2, ("node1", "node2", "node4")))
    engine.reload()
    assert peers(engine) == {"node2", "node3", "node4"}
    assert peers(host.start()) == {"node2", "node3", "node4"}


def test_a_store_of_another_cluster_counts_for_nothing(host):
    host.learn(claim(3), cluster=Cluster("other", 2))
    assert peers(host.start()) == {"node2"}


def test_an_older_map_is_refused_with_a_store_as_without(host):
    host.paths.fleet.write_bytes(fakes.map_bytes(5, ("node1", "node2")))
    host.learn(claim(3))
    engine = host.start()
    host.paths.fleet.write_bytes(fakes.map_bytes(4, ("node1", "node2")))
    with pytest.raises(WardmeshError):
        engine.reload()
    host.paths.fleet.write_bytes(fakes.map_bytes(6, ("node1",)))
    engine.reload()
    assert peers(engine) == {"node3"}


def test_an_error_of_the_kernel_leaves_the_old_members(host):
    engine = host.start()
    host.learn(claim(3))
    host.machine.broken["tunnel"] = "no room"
    with pytest.raises(WardmeshError):
        engine.rediscover()
    assert peers(engine) == {"node2"}
    host.machine.broken.clear()
    engine.rediscover()
    assert peers(engine) == {"node2", "node3"}


def test_refused_records_are_named_in_the_status(host):
    engine = host.start()
    thief = parse_member(
        {
            "name": "thief",
            "key": base64.b64encode(b"t" * 32).decode(),
            "addresses": ["10.0.0.2"],
            "endpoint": "10.0.0.9:51871",
        },
        "t",
    )
    host.learn(claim(3), Claim(thief, 9))
    engine.rediscover()
    document = View(engine).status({"connected": True, "problem": ""})
    assert peers(engine) == {"node2", "node3"}
    assert document["discovery"]["refusedRecords"] == [
        {"name": "thief", "why": "address 10.0.0.2 belongs to node2"}
    ]
    assert any("thief refused" in warning for warning in document["warnings"])
    assert document["problems"] == []


def test_a_store_without_tls_is_warned_of(host):
    host.paths.config.write_text(CONFIG.replace("https", "http"))
    warnings = View(host.start()).status({"connected": True, "problem": ""})["warnings"]
    assert any("without TLS" in warning for warning in warnings)


def test_the_order_of_the_process_goes_through_its_pipe(host):
    engine = host.start()
    order = order_of(engine.inputs, host.paths)
    assert read_order(order.line()) == order
    assert set(order.values) and all(
        name.startswith(("etcd.", "consul.", "discovery.", "clustermesh.")) for name in order.values
    )


@pytest.mark.parametrize(
    "etcd",
    [
        "endpoints: ['ftp://a:1']",
        "endpoints: ['https://root:secret@a:1']",
        "endpoints: ['https://a', 'http://b']",
        "endpoints: ['https://a/path']",
        "endpoints: ['http://a'], tls: {ca: /x}",
        "endpoints: ['https://a'], tls: {cert: /x}",
        "endpoints: ['https://a'], tls: {ca: relative}",
        "endpoints: ['https://a'], username: me",
        "endpoints: ['https://a'], lease: 1s",
        "endpoints: ['https://a:99999']",
        "endpoints: ['https://a']}\nconsul: {address: 'https://b'",
        "}\nconsul: {address: 'https://b', lease: 5s",
        "}\nconsul: {address: 'https://b', tokenFile: token",
    ],
)
def test_a_wrong_store_is_refused_with_its_key_and_without_its_secret(host, etcd):
    host.start()
    host.paths.config.write_text(f"cluster: {{name: test, id: 1}}\netcd: {{{etcd}}}\n")
    _inputs, error = load_or_last_good(host.paths)
    assert error is not None
    assert error.where.startswith(("etcd.", "consul."))
    assert "secret" not in str(error)
    assert main(["config", "validate", str(host.paths.config)]) != 0
