# SPDX-License-Identifier: Apache-2.0
# Every target makes what it needs first; all of them can be called from a fresh clone.
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
COLLECTIONS := $(CURDIR)/.dev
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH" ANSIBLE_COLLECTIONS_PATH="$(COLLECTIONS)"
SCENARIO ?= default
PART ?=
KEEP ?=

.PHONY: help dev test lint format demo bench molecule clean distclean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

dev: ## Make .venv with the developer tools and .venv/bin/wardmesh
	@tools/dev.sh

test: dev ## Run every test; PART=lint,unit runs a part (see docs/reference/tests.md)
	@$(RUN) $(PYTHON) tools/test.py $(PART)

lint: dev ## Run the linters alone
	@$(RUN) $(PYTHON) tools/test.py lint

format: dev ## Format Python and C
	@$(RUN) $(PYTHON) tools/format.py

demo: dev ## From nothing to an encrypted fleet of three lab hosts, with proof; KEEP=1 keeps them
	@$(RUN) PYTHONPATH=tests/lab $(PYTHON) tools/demo.py $(if $(KEEP),--keep)

bench: dev ## Run the benchmarks and write docs/benchmarks.md
	@$(RUN) PYTHONPATH=tests/bench:tests/lab:agent $(PYTHON) -m bench $(PART)

molecule: dev ## Run a Molecule scenario: SCENARIO=default; all: every one on containers
	@$(RUN) tools/molecule.sh $(SCENARIO)

clean: ## Remove what builds and tests left in the checkout
	rm -rf .build .cache .ansible .mypy_cache .pytest_cache .ruff_cache tests/output
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## Also remove .venv and .dev
	rm -rf .venv .dev
