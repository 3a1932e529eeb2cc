# make demo and make test set up what they need; on Debian as root even the packages.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
BUILD := build

help:
	@echo 'make demo    a C filesystem through perfused on this kernel: a workload, decoded frames, the opcode table'
	@echo 'make test    all tests, on the real kernel'
	@echo 'make conform the whole POSIX suite and the exerciser on the loopback, through perfused (a few minutes)'
	@echo 'make clients real FUSE programs through perfused; installs them (some 700 MB), writes the table of docs/clients.md'
	@echo 'make kernels the kernel suite on gVisor, User Mode Linux and emulated machines (hours), writes docs/kernels.md'
	@echo 'make lint    ruff and mypy'
	@echo 'make docs    the documentation as a site, into $(BUILD)/site'
	@echo 'make bench   all figures beside other FUSE filesystems, into docs/performance.md (12 minutes; run nothing else)'
	@echo 'make bench-quick  one minute: the hot paths of the relay and the Python server, printed only'
	@echo 'make bench-page   docs/performance.md from the last figures'
	@echo 'make build   the C library and the C fixtures into $(BUILD)/'
	@echo 'make setup   only $(VENV)'
	@echo 'make clean   remove $(VENV), $(BUILD) and caches'

setup: $(VENV)/.ready build

$(VENV)/.ready: pyproject.toml .ci/prepare
	sh .ci/prepare
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev,docs]'
	touch $@

build: $(VENV)/.ready
	$(MAKE) --no-print-directory -s -C libperfuse BUILD=$(abspath $(BUILD))
	$(MAKE) --no-print-directory -s -C fixtures BUILD=$(abspath $(BUILD))

demo: setup
	unshare -m --propagation private timeout -k 5 60 $(PY) -m fixtures.demo

test: setup
	$(PY) -m pytest

conform: setup
	unshare -m --propagation private $(PY) -m tests.conform

CLIENTS := $(abspath $(BUILD))/clients.json
clients: setup
	PYTHON=$(PYTHON) sh .ci/clients
	rm -f $(CLIENTS)
	PERFUSE_CLIENTS_RESULTS=$(CLIENTS) $(PY) -m pytest tests/clients
	[ "$$PERFUSE_CLIENTS_VIA" = plain ] || $(PY) -m tests.clients.page $(CLIENTS)
	[ "$$PERFUSE_CLIENTS_VIA" = plain ] || unshare -m --propagation private $(PY) -m tests.clients.samba_page

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Not --quiet: it would silence the warnings that --strict counts.
docs: setup
	$(PY) -m mkdocs build --strict --site-dir $(abspath $(BUILD))/site

# In a mount namespace and a pid namespace of its own: whatever ends it, nothing stays mounted and nothing runs on.
BENCH := unshare -m -p --fork --kill-child --mount-proc --propagation private $(PY) -m tests.bench
bench: setup
	$(BENCH)

bench-quick: setup
	$(BENCH) --quick

# Anew from bench/results.json: after a change of the reasons, of tests/bench/profile.md, or of how figures are shown.
bench-page: setup
	$(PY) -m tests.bench.page

kernels: setup
	$(PY) -m tests.kernels --page

clean:
	rm -rf $(VENV) $(BUILD) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help setup build demo test conform clients lint docs bench bench-quick bench-page kernels clean
