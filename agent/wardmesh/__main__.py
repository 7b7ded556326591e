# SPDX-License-Identifier: Apache-2.0
"""Entry of the zipapp: `wardmesh VERB`, or the daemon when called as wardmeshd."""

from __future__ import annotations

import sys

from wardmesh.cli.main import main

sys.exit(main())
