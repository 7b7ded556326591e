# SPDX-License-Identifier: Apache-2.0
"""Entry of the package and of the zipapp: `wardmesh VERB`, or the daemon when called as wardmeshd."""

from __future__ import annotations

import sys

from wardmesh.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
