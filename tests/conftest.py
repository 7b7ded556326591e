# SPDX-License-Identifier: Apache-2.0
"""What every test may ask for: the checkout, and the project's shared facts beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure: no test is judged by the clock.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared facts; tests that read it skip where a clone stands alone, and are counted."""
    folder = Path(os.environ.get("WARDMESH_SHARED", REPO.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("../shared is not beside this checkout")
    return folder
