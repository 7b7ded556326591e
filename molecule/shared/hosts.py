# SPDX-License-Identifier: Apache-2.0
"""The hosts of a scenario: `hosts.py up|down|resize N|cable NODE up|down|reboot NODE`.

Molecule's environment says which scenario it is and where its inventory lies. The scenarios on containers
share the lab's name, and so their hosts, when several of them run one after another.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lab import Host, Lab

# Three are the fewest of which one may fail and two still talk; CI says 2 where it has two cores only.
COUNT = int(os.environ.get("WARDMESH_LAB_HOSTS", "3"))
# Scenario to the lab's name and the kind of its hosts; every other one has the first.
LABS = {"": ("molecule", "container"), "vm": ("molecule-vm", "vm")}


def chosen() -> tuple[str, str]:
    """Name and kind of this scenario's lab."""
    return LABS.get(os.environ.get("MOLECULE_SCENARIO_NAME", ""), LABS[""])


def lab() -> Lab:
    """The lab of this scenario; found again by its name, so also after a run that was killed."""
    return Lab(chosen()[0])


def inventory() -> Path:
    """Where Molecule's playbooks look for it."""
    return Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory.yml"


def host(name: str) -> Host:
    """The host of that name."""
    return next(host for host in lab().hosts if host.name == name)


def up() -> None:
    """Fresh hosts and an inventory of them; what an earlier fleet left beside it goes."""
    name, kind = chosen()
    folder = inventory().parent
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("wardmesh-*.json"):
        left.unlink()
    Lab.up(COUNT, name, kind).inventory(inventory())


def resize(count: int) -> None:
    """Add hosts, or take the last ones away as pulling their plugs would."""
    made = lab()
    for extra in made.hosts[count:]:
        made.power_off(extra)
    made.add(range(len(made.hosts) + 1, count + 1))
    made.inventory(inventory())


def main(verb: str, *words: str) -> None:
    """Do one thing to the hosts."""
    if verb == "up":
        up()
    elif verb == "down":
        lab().down()
        inventory().unlink(missing_ok=True)
    elif verb == "resize":
        resize(int(words[0]))
    elif verb == "cable":
        if words[1] == "down":
            lab().pull_cable(host(words[0]))
        else:
            lab().plug_cable(host(words[0]))
            lab().wait(host(words[0]))
    elif verb == "reboot":
        lab().reboot(host(words[0]))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
