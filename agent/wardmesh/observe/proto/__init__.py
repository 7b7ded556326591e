# SPDX-License-Identifier: Apache-2.0
"""Hubble's messages, made at run time from compiled descriptors: no generated code (decision 0013).

They live in a pool of their own, so that another package's idea of the same files never meets ours.
Works with every protobuf from 3.12 on.
"""

from __future__ import annotations

import functools
import pkgutil
from typing import Any

from wardmesh.model.errors import WardmeshError
from wardmesh.observe.needs import need

DESCRIPTORS = "hubble.pb"


@functools.lru_cache(maxsize=1)
def pool() -> Any:
    """The descriptor pool with all of our files."""
    data = pkgutil.get_data(__name__, DESCRIPTORS)
    if data is None:
        raise WardmeshError(
            "the descriptors of the Hubble API are missing",
            where=DESCRIPTORS,
            remedy="install the agent again",
        )
    files = need("google.protobuf.descriptor_pb2").FileDescriptorSet.FromString(data).file
    made = need("google.protobuf.descriptor_pool").DescriptorPool()
    for file in files:  # protoc writes a file behind those that it imports
        made.AddSerializedFile(file.SerializeToString())
    return made


@functools.cache
def message(name: str) -> Any:
    """The class of a message by its full name, like flow.Flow."""
    descriptor = pool().FindMessageTypeByName(name)
    factory = need("google.protobuf.message_factory")
    if hasattr(factory, "GetMessageClass"):
        return factory.GetMessageClass(descriptor)
    return _factory().GetPrototype(descriptor)  # before protobuf 4.22


@functools.lru_cache(maxsize=1)
def _factory() -> Any:
    return need("google.protobuf.message_factory").MessageFactory(pool())


@functools.cache
def enum_names(name: str) -> dict[int, str]:
    """Number to name of an enum by its full name, like flow.DropReason."""
    return {value.number: str(value.name) for value in pool().FindEnumTypeByName(name).values}


def repeated(field: Any) -> bool:
    """Is a field a list? (`label` is gone from newer versions, `is_repeated` is not in older ones.)"""
    known = getattr(field, "is_repeated", None)
    return bool(field.label == field.LABEL_REPEATED if known is None else known)


def service(name: str) -> Any:
    """The descriptor of a service, like observer.Observer."""
    return pool().FindServiceByName(name)
