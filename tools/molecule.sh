#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# molecule.sh SCENARIO|all: run it, with .venv's programs in PATH, from the checkout.
set -eu
export MOLECULE_GLOB='molecule/*/molecule.yml'
# Molecule believes that what an aborted run had created is still there.
if [ "$1" = vm ]; then molecule destroy -s vm; else molecule destroy -s default; fi
if [ "$1" = all ]; then exec molecule test --all --exclude vm; fi
exec molecule test -s "$1"
