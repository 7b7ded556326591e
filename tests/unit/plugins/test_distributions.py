# SPDX-License-Identifier: Apache-2.0
"""Which packages a bare host of each supported distribution is told to install: os-release to names."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.loading import load

checks = load("plugins/module_utils/_checks.py")

# The lines of each os-release that decide; the others of its files are left out.
RELEASES = {
    "Debian 12": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "Debian 13": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\n',
    "Ubuntu 22.04": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nID=ubuntu\nID_LIKE=debian\n',
    "Ubuntu 24.04": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nID=ubuntu\nID_LIKE=debian\n',
    "RHEL 9": 'PRETTY_NAME="Red Hat Enterprise Linux 9.6 (Plow)"\nID="rhel"\nID_LIKE="fedora"\n',
    "Rocky 9": 'PRETTY_NAME="Rocky Linux 9.6 (Blue Onyx)"\nID="rocky"\nID_LIKE="rhel centos fedora"\n',
    "Alma 9": 'PRETTY_NAME="AlmaLinux 9.6 (Sage Margay)"\nID="almalinux"\nID_LIKE="rhel centos fedora"\n',
    "CentOS Stream 9": 'PRETTY_NAME="CentOS Stream 9"\nID="centos"\nID_LIKE="rhel fedora"\n',
}
DEBIAN = {
    "python3-bpfcc",
    "python3-pyroute2",
    "python3-yaml",
    "python3-cryptography",
    "python3-grpcio",
    "python3-protobuf",
    "python3-prometheus-client",
    "iproute2",
    "wireguard-go",
    "linux-headers-6.1.0-x",
}
# tc is a package of its own there, and PyYAML's and the metrics library's names are others.
RHEL = {
    "python3-bcc",
    "python3-pyroute2",
    "python3-pyyaml",
    "python3-cryptography",
    "python3-grpcio",
    "python3-protobuf",
    "python3-prometheus_client",
    "iproute-tc",
    "wireguard-go",
    "kernel-devel-6.1.0-x",
}


@pytest.fixture
def preflight(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, on a host that has nothing of what it looks for."""
    # The collection's own package, which is importable on a controller only.
    parts = ["ansible_collections", "wardmesh", "fleet", "plugins", "module_utils"]
    package = ModuleType(".".join(parts))
    package._checks, package._agent = checks, load("plugins/module_utils/_agent.py")  # type: ignore[attr-defined]
    for count in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:count]), ModuleType(parts[count - 1]))
    monkeypatch.setitem(sys.modules, package.__name__, package)
    module = load("plugins/modules/preflight.py")
    monkeypatch.setattr(checks, "missing_modules", lambda names: list(names))
    monkeypatch.setattr(checks, "has_headers", lambda: False)
    monkeypatch.setattr(checks, "has_kernel_wireguard", lambda: False)
    monkeypatch.setattr(checks.platform, "release", lambda: "6.1.0-x")
    monkeypatch.setattr(module.shutil, "which", lambda _name: None)
    monkeypatch.setattr(module.os.path, "exists", lambda path: path == "/dev/net/tun")
    return module


@pytest.mark.parametrize("name", RELEASES)
def test_a_bare_host_is_told_every_package_by_its_own_name(
    name: str, tmp_path: Path, preflight: ModuleType
) -> None:
    release = tmp_path / "os-release"
    release.write_text(RELEASES[name])
    family, pretty, _id = checks.distribution(str(release))
    assert pretty.startswith(name.split(maxsplit=1)[0]) or family == "rhel"
    errors: list[str] = []
    packages, backend = preflight.needed_packages(family, True, True, errors)
    assert (errors, backend) == ([], "userspace")
    assert set(packages) == (RHEL if family == "rhel" else DEBIAN)
    assert len(packages) == len(set(packages))


def test_what_a_host_does_not_run_it_need_not_install(preflight: ModuleType) -> None:
    for family in checks.FAMILIES:
        lean, _backend = preflight.needed_packages(family, False, False, [])
        assert not {"python3-grpcio", "python3-protobuf"} & set(lean)
        followed, _backend = preflight.needed_packages(family, False, True, [])
        assert set(followed) - set(lean) == {"python3-grpcio"}


def test_the_kernels_wireguard_needs_no_package(
    preflight: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "has_kernel_wireguard", lambda: True)
    for family in checks.FAMILIES:
        packages, backend = preflight.needed_packages(family, False, False, [])
        assert backend == "kernel" and "wireguard-go" not in packages


@pytest.mark.parametrize("text", ["ID=opensuse-leap\nID_LIKE='suse opensuse'\n", "ID=alpine\n", "", "ID\n"])
def test_other_distributions_are_not_taken_for_one_of_these(text: str, tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text(text)
    assert checks.distribution(str(release))[0] == ""


def test_every_family_names_every_part() -> None:
    first, *others = checks.FAMILIES.values()
    for other in others:
        assert set(other) == set(first)
    wanted = {*checks.AGENT_MODULES, *checks.OBSERVER_MODULES, *checks.STORE_MODULES}
    assert wanted <= set(first)
