# SPDX-License-Identifier: Apache-2.0
"""wardmesh: the on-host agent of a zero-trust network of ordinary Linux hosts."""

from __future__ import annotations

__version__ = "0.1.0"
