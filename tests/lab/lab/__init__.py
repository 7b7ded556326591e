# SPDX-License-Identifier: Apache-2.0
"""Labs: real hosts with systemd, sshd and their own network, on one machine."""

from __future__ import annotations

from lab.host import Host
from lab.lab import Lab

__all__ = ["Host", "Lab"]
