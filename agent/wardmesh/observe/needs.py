# SPDX-License-Identifier: Apache-2.0
"""Libraries that only observing needs: a host without them runs the rest, and says which is missing."""

from __future__ import annotations

import importlib
from typing import Any

from wardmesh.model.errors import WardmeshError

# The names are the same on Debian, Ubuntu and Fedora; on RHEL the packages are in EPEL.
_PACKAGES = {"grpc": "python3-grpcio", "google.protobuf": "python3-protobuf"}


def need(name: str) -> Any:
    """The module, or WardmeshError with the name of its package."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        library = next(known for known in _PACKAGES if name.startswith(known))
        package = _PACKAGES[library]
        word = "is too old" if name != library and _is_there(library) else "is not installed"
        raise WardmeshError(
            f"{package} {word}",
            why=str(error),
            remedy=f"install {package} from the distribution, or a newer one",
        ) from error


def _is_there(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
