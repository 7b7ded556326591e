# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every worker of a run needs and one of them makes. Private to the collection.

Ansible runs each task of each host in a process of its own, so what a plugin keeps in memory is made anew for
each. The run's temporary folder is theirs together, and goes with the run.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

from ansible import constants


def once(name: str, make: Callable[[], bytes]) -> bytes:
    """The bytes of this name: made by who comes first, while the others wait, and read by them."""
    path = os.path.join(constants.DEFAULT_LOCAL_TMP, "wardmesh-" + name)
    if not os.path.exists(path):
        with open(path + ".lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(path):
                with open(path + ".new", "wb") as stream:
                    stream.write(make())
                os.rename(path + ".new", path)
    with open(path, "rb") as stream:
        return stream.read()
