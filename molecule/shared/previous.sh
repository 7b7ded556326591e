#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# previous.sh CHECKOUT FOLDER: a copy of the collection whose agent calls itself another version.
set -eu
target="$2/ansible_collections/wardmesh/fleet"
rm -rf "$2"
mkdir -p "$target"
cd "$1"
cp -a agent bpf galaxy.yml meta playbooks plugins roles "$target/"
sed -i 's/^__version__ = "\(.*\)"/__version__ = "\1-previous"/' "$target/agent/wardmesh/__init__.py"
grep -q previous "$target/agent/wardmesh/__init__.py"
