#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the developer's environment: distribution packages, .venv, .venv/bin/wardmesh and the collection's link.
# The environment keeps a stamp of what it was made from, so a call with nothing changed does no work.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SYSTEM_PYTHON=/usr/bin/python3
STAMP=.venv/.made-from
APT_LOG=.build/logs/apt.log
mkdir -p "${APT_LOG%/*}"

APT=(apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0)

say() { printf 'dev: %s\n' "$*"; }
die() { printf 'dev: %s\n' "$*" >&2; exit 1; }

# The first of the alternatives that the distribution has; nothing when it has none.
candidate() {
    local name
    for name in "$@"; do
        if apt-cache show --no-all-versions "$name" >/dev/null 2>&1; then
            printf '%s\n' "$name"
            return
        fi
    done
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ]; }

# Prints the lines of requirements/apt.txt: one package each, or alternatives, space separated.
wanted_packages() {
    printf 'python3-venv\n'
    sed -e 's/#.*//' -e '/^[[:space:]]*$/d' requirements/apt.txt
}

install_packages() {
    local wanted missing=() line name found
    wanted=$(wanted_packages)
    while read -r line; do
        found=
        for name in $line; do
            if installed "$name"; then found=yes; fi
        done
        [ -n "$found" ] || missing+=("$line")
    done <<<"$wanted"
    [ "${#missing[@]}" -gt 0 ] || return 0

    [ "$(id -u)" = 0 ] || die "these packages are missing and only root can install them: ${missing[*]}"
    say "asking the distribution for: ${missing[*]}"
    apt-get update -qq
    local names=()
    for line in "${missing[@]}"; do
        # shellcheck disable=SC2086 # the alternatives of a line are separate words
        name=$(candidate $line)
        [ -n "$name" ] || die "the distribution has no package $line"
        names+=("$name")
    done
    brings_kernel "${names[@]}" && die "installing ${names[*]} would install a kernel image; refused"
    apt_install "${names[@]}"
    stop_services "${names[@]}"
    say "installed ${#names[@]} packages"
}

# Only their programs are wanted, and only where they were not there before: an operator's own server stays.
stop_services() {
    [ -d /run/systemd/system ] || return 0
    case " $* " in *" prometheus "*) systemctl --quiet disable --now prometheus.service ;; esac
    case " $* " in *" etcd-server "*) systemctl --quiet disable --now etcd.service ;; esac
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive "${APT[@]}" "$@" >"$APT_LOG" 2>&1 ||
        { tail -n 20 "$APT_LOG" >&2; die "apt-get install failed, see $APT_LOG"; }
}

brings_kernel() { "${APT[@]}" --simulate "$@" | grep -q '^Inst linux-image'; }

have_headers() {
    local tree
    for tree in "/lib/modules/$(uname -r)/build" /usr/src/linux-headers-*; do
        if [ -e "$tree/include/generated/autoconf.h" ]; then return 0; fi
    done
    return 1
}

# Kernel headers for bcc; those of any kernel will do. From Debian 13 on the package depends on the kernel's image, which
# is there on a machine that runs that kernel, and is not wanted on one that runs another: there the packages are only unpacked.
install_headers() {
    local arch name
    arch=$(dpkg --print-architecture)
    have_headers && return 0
    [ "$(id -u)" = 0 ] || die "kernel headers are missing and only root can install them"
    apt-get update -qq
    for name in "linux-headers-$(uname -r)" "linux-headers-$arch" linux-headers-generic; do
        if [ -n "$(candidate "$name")" ] && ! brings_kernel "$name"; then
            say "installing $name"
            apt_install "$name"
            return
        fi
    done
    unpack_headers "linux-headers-$arch"
}

# The packages that the metapackage $1 leads to: the architecture's part and the common part.
unpack_headers() {
    local folder real common
    real=$(apt-cache depends --important "$1" | sed -n 's/.*Depends: \(linux-headers-.*\)/\1/p' | head -n 1)
    [ -n "$real" ] || die "no kernel headers: the distribution has no package $1"
    common=$(apt-cache depends --important "$real" | sed -n 's/.*Depends: \(linux-headers-.*-common\)/\1/p')
    say "unpacking $real and $common into /usr/src (installed they would bring a kernel)"
    folder=$(mktemp -d)
    (cd "$folder" && apt-get download -qq "$real" "$common" && for deb in ./*.deb; do dpkg -x "$deb" .; done)
    cp -a "$folder"/usr/src/. /usr/src/
    rm -rf "$folder"
    have_headers || die "the unpacked headers are not complete"
}

make_venv() {
    say "making .venv with $("$SYSTEM_PYTHON" --version)"
    rm -rf .venv
    "$SYSTEM_PYTHON" -m venv .venv
    .venv/bin/pip install -qq --disable-pip-version-check -r requirements/dev.txt
    link_agent
    printf '%s' "$stamp" >"$STAMP"
}

# A .pth file and a wrapper instead of `pip install -e`: no build step, nothing to fetch, and the sources are what runs.
link_agent() {
    .venv/bin/python - "$PWD/agent" <<'PY'
import pathlib
import sys
import sysconfig

pathlib.Path(sysconfig.get_path("purelib"), "wardmesh-agent.pth").write_text(sys.argv[1] + "\n")
PY
    printf '#!/bin/sh\nexec "%s/.venv/bin/python" -m wardmesh "$@"\n' "$PWD" >.venv/bin/wardmesh
    chmod 0755 .venv/bin/wardmesh
}

link_collection() {
    mkdir -p .dev/ansible_collections/wardmesh
    ln -sfn ../../.. .dev/ansible_collections/wardmesh/fleet
}

command -v apt-get >/dev/null || die "only Debian and Ubuntu are supported for development (apt-get not found)"
if [ ! -x "$SYSTEM_PYTHON" ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 >/dev/null
fi
"$SYSTEM_PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$SYSTEM_PYTHON" --version) is too old for the controller's tools; 3.11 or newer is needed"

install_packages
install_headers
PYTHONPATH=tests/lab "$SYSTEM_PYTHON" -m lab deps
stamp="$PWD $("$SYSTEM_PYTHON" --version) $(cat requirements/controller.txt requirements/dev.txt tools/dev.sh | sha256sum)"
if [ ! -x .venv/bin/python ] || [ ! -f "$STAMP" ] || [ "$(cat "$STAMP")" != "$stamp" ]; then make_venv; fi
link_collection
