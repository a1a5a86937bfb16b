# Needs Python >= 3.11, git and make. System packages are installed where that is permitted (root or sudo).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := android,litert,search,report,pytest,lab
# Where PyTorch keeps its builds for the CPU. The one of PyPI for Linux brings 3 GB of CUDA libraries, which are of no use without an NVIDIA GPU.
TORCH_CPU := https://download.pytorch.org/whl/cpu
TEST_PACKAGES := g++ gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross adb qemu-user-static iproute2 util-linux dpkg postgresql chromium
TEST_PROGRAMS := g++ aarch64-linux-gnu-gcc aarch64-linux-gnu-g++ adb qemu-aarch64-static ip unshare dpkg-deb pg_ctlcluster chromium
# Tests start hundreds of Python processes; each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE
CPUS := $(shell getconf _NPROCESSORS_ONLN)
# One process more than there are CPUs: half of the time of a run is waiting. Each may take 2 GB.
JOBS ?= $(shell expr $(CPUS) + 1)
PYTEST := $(BIN)/python -m pytest -n
# What `make quick` leaves out (the markers are explained in pyproject.toml): of one folder the slowest, of the core all that costs.
SLOWEST := slow or hil or ray or browser or rig or qemu
CORE := $(wildcard tests/test_*.py) $(addprefix tests/,cli devices/shared devices/virtual lookup_tables measuring network records render search store workflows)
COSTLY := $(SLOWEST) or torch or compiler or arm_compiler or database
RELEASES ?= bookworm trixie
TESTS ?= test
STUDIES := $(patsubst runners/studies/%.py,%,$(wildcard runners/studies/[a-z]*.py))

.PHONY: help setup compiler system demo lint quick test hil check fresh docs lab-demo study clean

help:
	@echo "make setup   .venv with hwbench (editable), all extras but tensorrt, and the development tools"
	@echo "make demo    set up, then profile and compare two networks on this computer's CPU"
	@echo "make quick   set up, then test the core on the virtual device: a minute"
	@echo "make quick PKG=lookup_tables   tests of one folder of the package, and those elsewhere that import it"
	@echo "make test    set up, then run all tests"
	@echo "make lint    set up, then ruff, mypy --strict, import-linter and vulture"
	@echo "make hil DEVICE=...     contract tests, selftest, profile, compare and a table on a real device"
	@echo "make check   lint and test: what CI runs"
	@echo "make fresh   README's commands and the tutorial's in bare Debians with Python 3.11 and 3.13: root, debootstrap, an hour;"
	@echo "             RELEASES=forky: with 3.14, in the Debian that is still being made"
	@echo "make docs    set up, then the documentation as HTML in build/docs; warnings are errors"
	@echo "make lab-demo  PostgreSQL, a lab of 3 hosts with 8 simulated devices, a table built over them while one host is killed"
	@echo "make study NAME=...   repeat one study of results/ ($(STUDIES))"

setup: $(VENV)/.done compiler

$(VENV)/.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hwbench needs Python >= 3.11; call: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "setup 1/4: an environment in $(VENV), and pip: seconds"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --upgrade "pip>=25.1"
	@$(torch)
	@echo "setup 3/4: hwbench with ONNX Runtime, Ray and more: over 1 GB, minutes"
	@$(BIN)/python -m pip install -c constraints.txt -e ".[$(EXTRAS)]"
	@echo "setup 4/4: tools for development, from ruff to Sphinx: a minute"
	@$(BIN)/python -m pip install -c constraints.txt --group dev
	@touch $@

# Where the CPU build cannot be fetched, the next step takes that of the index.
define torch
if test "$$(uname -s)" = Linux && ! command -v nvidia-smi >/dev/null && ! test -e /dev/nvidiactl; then \
echo "setup 2/4: PyTorch for the CPU, as no NVIDIA GPU is here: 200 MB from $(TORCH_CPU)"; \
$(BIN)/python -m pip install --retries 1 --timeout 20 -c constraints.txt --index-url $(TORCH_CPU) torch \
|| echo "setup: the CPU build cannot be fetched; that of the package index comes next, over 3 GB"; \
else echo "setup 2/4: PyTorch as the package index has it comes with the next step"; fi
endef

# A C compiler for the native runner; without it the CPU is timed from Python.
compiler:
	$(call install,cc,gcc libc6-dev)

# Compilers for 64-bit Arm; adb, and what a phone-like peer for it is made of; a database server; a browser. Without them the tests that
# need them are skipped by name.
system: compiler
	$(call install,$(TEST_PROGRAMS),$(TEST_PACKAGES))

define install
@missing=; for program in $(1); do command -v $$program >/dev/null || missing=yes; done; test -n "$$missing" || exit 0; \
command -v apt-get >/dev/null || { echo "no apt-get: install by hand if missing: $(2)" >&2; exit 0; }; \
if [ "$$(id -u)" = 0 ]; then SUDO=; elif sudo -n true 2>/dev/null; then SUDO=sudo; \
else echo "not root and no sudo: what needs these is left out: $(2)" >&2; exit 0; fi; \
echo "system packages for what is missing of: $(1): a few minutes"; \
$$SUDO apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$SUDO apt-get install -y -qq $(2) >/dev/null \
|| echo "could not install: $(2); what needs them is left out" >&2
endef

demo: setup
	$(BIN)/hwbench profile zoo:mobilenet_v1 --device cpu
	$(BIN)/hwbench compare zoo:mobilenet_v1 zoo:mobilenet_v1@0.5 --device cpu

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p hwbench -p runners
	$(BIN)/lint-imports
	$(BIN)/vulture

quick: setup
ifdef PKG
	@test -d tests/$(PKG) || { echo "no folder tests/$(PKG): PKG is a folder of hwbench/" >&2; exit 2; }
	$(PYTEST) $(CPUS) -m "not ($(SLOWEST))" tests/$(PKG) $$(grep -rlE --include='test_*.py' 'hwbench\.$(subst /,\.,$(PKG))\b' tests)
else
	$(PYTEST) $(CPUS) -m "not ($(COSTLY))" $(CORE)
endif

test: setup system
	$(PYTEST) $(JOBS)

hil: setup
	@test -n "$(DEVICE)" || { echo "make hil DEVICE=cuda:0, or another address of: hwbench devices" >&2; exit 2; }
	$(BIN)/python -m pytest tests/hil -m hil --device $(DEVICE)

check: lint test

# A bare machine for each release of Debian; TESTS=quick instead of all tests.
fresh:
	@for release in $(RELEASES); do $(PYTHON) -m runners.fresh $$release --tests $(TESTS) || exit 1; done

docs: setup
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs
	@echo build/docs/index.html

lab-demo: setup system
	$(BIN)/python -m runners.lab_demo

study: setup
	@test -n "$(NAME)" || { echo "make study NAME=one of: $(STUDIES)" >&2; exit 2; }
	$(BIN)/python -m runners.studies.$(NAME)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
