# SPDX-License-Identifier: Apache-2.0
"""Server and client over a real unix socket."""

from __future__ import annotations

import stat

import pytest

from wardmesh.api import client
from wardmesh.api.server import serve
from wardmesh.model.errors import WardmeshError


def refuse():
    raise WardmeshError("what", where="where", why="why", remedy="remedy")


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "run" / "api.sock"
    server = serve(target, {("GET", "/v1/status"): lambda: {"ok": True}, ("GET", "/refuse"): refuse})
    yield target
    server.shutdown()
    server.server_close()


def test_an_answer_comes_back(path):
    assert client.call(path, "GET", "/v1/status") == {"ok": True}
    assert client.running(path)


def test_an_error_keeps_its_four_parts(path):
    with pytest.raises(WardmeshError) as caught:
        client.call(path, "GET", "/refuse")
    assert caught.value.as_dict() == {"what": "what", "where": "where", "why": "why", "remedy": "remedy"}


def test_an_unknown_request_is_told(path):
    with pytest.raises(WardmeshError, match="no such path"):
        client.call(path, "GET", "/nowhere")


def test_others_cannot_open_the_socket(path):
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


def test_no_agent_is_a_clear_error(tmp_path):
    assert not client.running(tmp_path / "none.sock")
    with pytest.raises(WardmeshError, match="does not answer"):
        client.call(tmp_path / "none.sock", "GET", "/v1/status")
