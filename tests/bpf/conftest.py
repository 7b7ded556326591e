# SPDX-License-Identifier: Apache-2.0
"""One loaded guard for all tables; a network namespace around every test of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.bpf.fw_harness import POLICY, FirewallBench, loaded_firewall
from tests.bpf.harness import Bench, loaded_bench, may_load
from tests.bpf.netns import Namespace


@pytest.fixture(scope="session")
def privileged() -> None:
    """Loading programs needs root."""
    reason = may_load()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def bench(privileged: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The real programs with the fleet of the tables."""
    namespace = Namespace()
    try:
        with namespace.entered(), loaded_bench(tmp_path_factory.mktemp("guard")) as loaded:
            yield loaded
    finally:
        namespace.close()


@pytest.fixture(scope="session")
def firewall(privileged: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirewallBench]:
    """The firewall's real programs, loaded once."""
    namespace = Namespace()
    try:
        with namespace.entered(), loaded_firewall(tmp_path_factory.mktemp("firewall")) as loaded:
            yield loaded
    finally:
        namespace.close()


@pytest.fixture
def wall(firewall: FirewallBench) -> FirewallBench:
    """The programs with POLICY in force and no flow known."""
    firewall.firewall.set_policy(POLICY)
    firewall.firewall.set_audit(False)
    firewall.forget_flows()
    return firewall
