# SPDX-License-Identifier: Apache-2.0
"""Start or end the hosts of this scenario with the project's lab: `hosts.py up|down INVENTORY`."""

from __future__ import annotations

import sys
from pathlib import Path

from lab import Lab

NAME = "molecule"


def main(verb: str, inventory: Path) -> None:
    """Hosts are found again by the lab's name, so `down` also works after a run that was killed."""
    if verb == "up":
        inventory.parent.mkdir(parents=True, exist_ok=True)
        Lab.up(3, name=NAME).inventory(inventory)
    else:
        Lab(NAME).down()
        inventory.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
