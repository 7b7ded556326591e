# Copyright (c) wardmesh contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's one file on a host: put in, switched to, switched back. Private to the collection."""

from __future__ import annotations

import hashlib
import os
import tempfile

FOLDER = "/usr/local/lib/wardmesh"
LINKS = ("/usr/local/bin/wardmesh", "/usr/local/bin/wardmeshd")
PYTHON = "/usr/bin/python3"
# The agent says what that is good for, in wardmesh/host/compiled.py.
KEEP = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from wardmesh.host.compiled import keep_compiled
keep_compiled(pathlib.Path(sys.argv[1]))
"""


def is_current(digest):
    """Does the host run the agent of this SHA-256? By its bytes, so that a damaged file is replaced."""
    try:
        with open(os.path.join(FOLDER, "current"), "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest() == digest
    except OSError:
        return False


def temporary(module, data):
    """A file of these bytes that goes with the module."""
    handle, path = tempfile.mkstemp(dir=module.tmpdir, suffix=".pyz")
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
    return path


def stage(module, data, digest):
    """Put the file beside the current one; its path. Nothing leads to it yet."""
    path = os.path.join(FOLDER, "wardmesh-%s.pyz" % digest[:12])
    os.makedirs(FOLDER, mode=0o755, exist_ok=True)
    module.atomic_move(temporary(module, data), path)
    os.chmod(path, 0o755)  # noqa: S103 - a program, run by everybody
    # Where it cannot be compiled now, the agent compiles at each start.
    module.run_command([PYTHON, "-I", "-c", KEEP, path])
    return path


def switch(path):
    """Lead the links to a staged file; keep the one before it and no older."""
    name, current = os.path.basename(path), os.path.join(FOLDER, "current")
    old = os.readlink(current) if os.path.islink(current) else None
    if old and old != name:
        point(os.path.join(FOLDER, "previous"), old)
    point(current, name)
    for link in LINKS:
        point(link, current)
    clean()


def clean():
    """Remove every agent that no link leads to."""
    links = [os.path.join(FOLDER, link) for link in ("current", "previous")]
    keep = {os.readlink(link).split(".")[0] for link in links if os.path.islink(link)}
    for found in os.listdir(FOLDER):
        if found.endswith((".pyz", ".zip")) and found.split(".")[0] not in keep:
            os.unlink(os.path.join(FOLDER, found))


def point(link, target):
    """Point a link somewhere else in one step."""
    fresh = link + ".new"
    if os.path.lexists(fresh):
        os.unlink(fresh)
    os.symlink(target, fresh)
    os.rename(fresh, link)


def rollback(module):
    """Swap current and previous."""
    current, previous = (os.path.join(FOLDER, name) for name in ("current", "previous"))
    if not os.path.islink(previous):
        module.fail_json(msg="no previous agent on this host (remedy: install a version instead)")
    old, new = os.readlink(current), os.readlink(previous)
    if not module.check_mode:
        point(current, new)
        point(previous, old)
