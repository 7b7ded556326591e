# SPDX-License-Identifier: Apache-2.0
"""The descriptors: current, readable from the one-file agent, and with the numbers of Hubble's own files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.loading import REPO, load

from wardmesh.observe.proto import DESCRIPTORS, enum_names, message, service

# Numbers that a client of another make relies on, of every file and kind.
NUMBERS = [
    ("observer.GetFlowsRequest", "field_mask", 10),
    ("observer.GetFlowsResponse", "node_name", 1000),
    ("observer.GetFlowsResponse", "lost_events", 3),
    ("observer.ServerStatusResponse", "flows_rate", 9),
    ("observer.Node", "seen_flows", 9),
    ("flow.Flow", "IP", 5),
    ("flow.Flow", "Summary", 100000),
    ("flow.Flow", "ingress_denied_by", 21005),
    ("flow.FlowFilter", "encrypted", 40),
    ("flow.FlowFilter", "experimental", 999),
    ("flow.LostEvent", "num_events_lost", 2),
    ("peer.ChangeNotification", "tls", 4),
    ("relay.NodeStatusEvent", "message", 3),
    ("grpc.health.v1.HealthCheckResponse", "status", 1),
]


@pytest.mark.parametrize(("name", "field", "number"), NUMBERS)
def test_fields_have_their_numbers(name: str, field: str, number: int) -> None:
    assert message(name).DESCRIPTOR.fields_by_name[field].number == number


def test_enums_and_services_have_their_names() -> None:
    assert enum_names("flow.Verdict")[4] == "AUDIT"
    assert enum_names("flow.DropReason")[195] == "UNENCRYPTED_TRAFFIC"
    assert {method.name for method in service("observer.Observer").methods} == {
        "GetFlows",
        "GetAgentEvents",
        "GetDebugEvents",
        "GetNodes",
        "GetNamespaces",
        "ServerStatus",
    }


def test_the_compiled_set_is_that_of_the_sources() -> None:
    assert load("tools/gen_descriptors.py").main(["--check"]) == 0


def test_the_one_file_agent_finds_its_descriptors(tmp_path: Path) -> None:
    target = tmp_path / "wardmesh"
    target.write_bytes(load("agent/build_zipapp.py").build(REPO))
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "import wardmesh\n"
        "from wardmesh.observe.proto import message\n"
        "print(wardmesh.__file__, message('flow.Flow')(uuid='x').SerializeToString().hex())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    place, data = done.stdout.split()
    assert place.startswith(str(target)) and data == "92020178"
    assert (REPO / "agent/wardmesh/observe/proto" / DESCRIPTORS).stat().st_size < 100_000
