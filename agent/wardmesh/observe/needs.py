# SPDX-License-Identifier: Apache-2.0
"""Libraries that only observing needs: a host without them runs the rest, and says which is missing."""

from __future__ import annotations

import importlib
from typing import Any

from wardmesh.model.errors import WardmeshError

# Upstream's own names are the same on Debian, Ubuntu and Fedora; on RHEL they are in EPEL.
_PACKAGES = {"grpc": "python3-grpcio", "google.protobuf": "python3-protobuf"}


def need(name: str) -> Any:
    """The module, or WardmeshError with the name of its package."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = next((found for known, found in _PACKAGES.items() if name.startswith(known)), name)
        raise WardmeshError(
            f"{package} is not installed",
            why=str(error),
            remedy=f"install the distribution's package {package} (apt-get or dnf install {package})",
        ) from error
