# Everything is installed into .venv; Debian packages that are missing are installed with apt-get.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 4

.PHONY: help setup packages demo test check bench soak reference screenshots clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    see the whole story on this machine, with real SMB servers (under 2 minutes)"
	@echo "make test    checks and tests, as CI runs them"
	@echo "make check   ruff, mypy --strict, import-linter"
	@echo "make bench   measurements beside other programs; BENCH=--quick for the short ones (docs/performance.md)"
	@echo "make soak    the long tests"
	@echo "make reference   write anew what is made from the program: schema, manual pages, completion in shells"
	@echo "make screenshots  the pictures of the dashboard in docs/"

setup: packages $(VENV)/.installed

# Looked for each time: a package may be removed after the first.
packages:
	@bash .ci/debian-packages $(PYTHON)

$(VENV)/.installed: pyproject.toml constraints.txt | packages
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/replicad demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The second is what the program that steers the first is linked with.
BROWSER := chromium=/usr/bin/chromium libatomic1=/usr/share/doc/libatomic1
# What reads the manual pages, completes, and checks the rules, the unit and the containers' files.
READERS := mandoc=/usr/bin/mandoc groff-base=/usr/bin/groff zsh=/usr/bin/zsh fish=/usr/bin/fish \
	prometheus=/usr/bin/promtool systemd=/usr/bin/systemd-analyze \
	docker-compose=/usr/bin/docker-compose shellcheck=/usr/bin/shellcheck

# A file server that makes shadow copies.
COPIERS := samba-vfs-modules=/usr/share/doc/samba-vfs-modules

# A real virtual machine for the tests; its kernel is only unpacked, below .venv.
GUEST := qemu-system-x86=/usr/bin/qemu-system-x86_64 gcc=/usr/bin/gcc libc6-dev=/usr/include/x86_64-linux-gnu/sys

test: check
	@bash .ci/debian-packages $(PYTHON) $(BROWSER) $(READERS) $(GUEST) $(COPIERS)
	@$(BIN)/python -m tests.support.guest
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not soak'

soak: setup
	@bash .ci/debian-packages $(PYTHON) debootstrap=/usr/sbin/debootstrap
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m soak --timeout 3600

bench: setup
	@bash .ci/debian-packages $(PYTHON) rclone=/usr/bin/rclone rsync=/usr/bin/rsync xxhash=/usr/bin/xxhsum
	@$(BIN)/python -m benchmarks $(BENCH)

reference: setup
	$(BIN)/replicad schema > config/replicad.schema.json
	$(BIN)/python -m tools

# For names in Korean, and signs.
screenshots: setup
	@bash .ci/debian-packages $(PYTHON) $(BROWSER) fonts-nanum=/usr/share/fonts/truetype/nanum fonts-noto-color-emoji=/usr/share/fonts/truetype/noto
	@$(BIN)/python -m tests.support.dashboard_pictures docs

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
