# SPDX-License-Identifier: Apache-2.0
"""How the relay of this host is reached, by its own settings."""

from __future__ import annotations

from wardmesh.model.certificates import server_name
from wardmesh.observe.client import Access
from wardmesh.observe.listen import WILDCARDS
from wardmesh.observe.settings import Settings

_LOOPBACKS = ("127.0.0.1", "::1", "localhost")


def relay_access(settings: Settings, own: str, cluster: str) -> Access:
    """By TLS where it listens beyond loopback. own: this member's name, "" where it is none."""
    where, tls = settings.relay, settings.tls
    host = where.host if where.host not in WILDCARDS else "127.0.0.1"
    target = f"[{host}]:{where.port}" if ":" in host else f"{host}:{where.port}"
    if tls is None or (tls.rollout and where.host in _LOOPBACKS):
        return Access(target)
    return Access(target, True, tls.client_ca, tls.cert, tls.key, server_name(own, cluster) if own else "")
