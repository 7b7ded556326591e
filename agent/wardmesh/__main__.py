# SPDX-License-Identifier: Apache-2.0
"""Entry of the package in a folder: `python3 -m wardmesh VERB`. The zipapp has agent/zipapp_main.py."""

from __future__ import annotations

import sys

from wardmesh.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
