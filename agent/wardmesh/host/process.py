# SPDX-License-Identifier: Apache-2.0
"""The one way to run another program."""

from __future__ import annotations

import os
import subprocess

from wardmesh.model.errors import WardmeshError


def run(
    argv: list[str], *, stdin: str = "", timeout: float = 60, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run without a shell, in the C locale; a failure becomes a WardmeshError with the end of stderr."""
    env = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False, env=env
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WardmeshError(
            f"cannot run {argv[0]}",
            why=str(error),
            remedy=f"install the package of {argv[0]}, or see why it hangs",
        ) from error
    if check and done.returncode:
        tail = " | ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
        raise WardmeshError(f"{' '.join(argv[:4])} failed", why=f"exit status {done.returncode}: {tail}")
    return done
