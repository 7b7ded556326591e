# SPDX-License-Identifier: Apache-2.0
"""Compile the .proto files of the Hubble API into one set of descriptors; --check says whether it is current.

The set is what the agent loads at run time: generated Python code works with one range of protobuf versions
only (docs/decisions/0013-descriptors-not-code.md). Needs grpcio-tools, which `make dev` installs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from generated import REPO

FOLDER = REPO / "agent/wardmesh/observe/proto"
TARGET = FOLDER / "hubble.pb"


def compiled() -> bytes:
    """A serialized FileDescriptorSet with everything that our files import."""
    import grpc_tools
    from grpc_tools import protoc

    wellknown = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        files = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.proto"))
        folders = [f"-I{FOLDER}", f"-I{wellknown}"]
        status = protoc.main(["protoc", *folders, "--include_imports", f"--descriptor_set_out={out}", *files])
        if status:
            raise SystemExit(status)
        return out.read_bytes()


def own_files(data: bytes) -> dict[str, bytes]:
    """Our files of a set by name: google's differ from one protoc to the next in comments and options."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    files = FileDescriptorSet.FromString(data).file
    return {
        file.name: file.SerializeToString(deterministic=True) for file in files if "google/" not in file.name
    }


def main(argv: list[str]) -> int:
    """Write the set, or with --check compare."""
    made = compiled()
    if "--check" not in argv:
        TARGET.write_bytes(made)
        return 0
    if TARGET.exists() and own_files(TARGET.read_bytes()) == own_files(made):
        return 0
    print(f"{TARGET.relative_to(REPO)} is stale: run {sys.argv[0]}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
