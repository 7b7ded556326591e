# SPDX-License-Identifier: Apache-2.0
"""Modules that stand in no package of the import path: the collection's plugins, and fakes beside a test."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

REPO = Path(__file__).parents[1]


def load(path: str) -> ModuleType:
    """The module at a path below the checkout, loaded once."""
    name = "loaded_" + path.replace("/", "_").removesuffix(".py")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, REPO / path)
        assert spec is not None and spec.loader is not None, path
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
