# SPDX-License-Identifier: Apache-2.0
"""gRPC's reflection service (v1alpha): clients may ask what is served, and for the descriptors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from wardmesh.observe.needs import need
from wardmesh.observe.proto import message, pool

_NOT_FOUND, _UNIMPLEMENTED = 5, 12  # grpc.StatusCode


def reflect(requests: Iterator[Any], services: Sequence[str]) -> Iterator[Any]:
    """An answer to each question of a stream."""
    for request in requests:
        made = message("grpc.reflection.v1alpha.ServerReflectionResponse")()
        made.valid_host = request.host
        made.original_request.CopyFrom(request)
        asked = request.WhichOneof("message_request")
        if asked == "list_services":
            for name in sorted(services):
                made.list_services_response.service.add(name=name)
        elif asked == "file_by_filename":
            _files(made, request.file_by_filename, by_symbol=False)
        elif asked == "file_containing_symbol":
            _files(made, request.file_containing_symbol, by_symbol=True)
        else:
            _error(made, _UNIMPLEMENTED, "no extensions here")
        yield made


def _files(made: Any, name: str, *, by_symbol: bool) -> None:
    try:
        first = pool().FindFileContainingSymbol(name) if by_symbol else pool().FindFileByName(name)
    except KeyError:
        _error(made, _NOT_FOUND, f"{name!r} is not known here")
        return
    found: dict[str, bytes] = {}
    _collect(first, found)
    made.file_descriptor_response.file_descriptor_proto.extend(found.values())


def _collect(file: Any, found: dict[str, bytes]) -> None:
    """A file, then everything that it imports."""
    if file.name in found:
        return
    copy = need("google.protobuf.descriptor_pb2").FileDescriptorProto()
    file.CopyToProto(copy)
    found[file.name] = copy.SerializeToString()
    for imported in file.dependencies:
        _collect(imported, found)


def _error(made: Any, code: int, words: str) -> None:
    made.error_response.error_code = code
    made.error_response.error_message = words
