# SPDX-License-Identifier: Apache-2.0
"""The zipapp's __main__: prefers what was compiled of it for this Python (why: wardmesh/host/compiled.py)."""

import os
import sys

_file = os.path.realpath(sys.argv[0])
_kept = f"{_file.removesuffix('.pyz')}.{sys.implementation.cache_tag}.zip"
try:
    _own, _found = os.stat(_file), os.stat(_kept)
    # Who may write the one file may write the other; nobody else may have put it there.
    if _found.st_uid == _own.st_uid and not _found.st_mode & 0o022:
        sys.path.insert(0, _kept)
except OSError:
    pass

from wardmesh.cli.main import main  # noqa: E402

sys.exit(main())
