# SPDX-License-Identifier: Apache-2.0
"""What is asked of the kernel about devices, where its answer is an error."""

from __future__ import annotations

import errno
from typing import Any, cast

import pytest

from wardmesh.host.netlink import Netlink
from wardmesh.wireguard import links


class Refuses:
    """A netlink socket whose every request ends with an error."""

    def __init__(self, number: int) -> None:
        self.number = number

    def request(self, _message: Any) -> None:
        raise OSError(self.number, "as the kernel says it")


def test_a_device_that_somebody_removed_meanwhile_is_removed():
    """The userspace device goes with the process that held it, at some moment after its end was asked for."""
    links.delete_link(cast("Netlink", Refuses(errno.ENODEV)), 7)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EBUSY, errno.EOPNOTSUPP])
def test_a_device_that_stays_is_an_error(number):
    with pytest.raises(OSError, match="as the kernel says it"):
        links.delete_link(cast("Netlink", Refuses(number)), 7)
