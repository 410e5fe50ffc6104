# make demo, make test: set up .venv from constraints.txt, then do the job. The second run skips the set-up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The conflicts not warned of are those with Lava's published pins; snn2chip's own tests say what works.
PINNED := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-warn-conflicts \
	--constraint constraints.txt
RUNTIME := $(VENV)/.runtime-installed
DEVELOPMENT := $(VENV)/.development-installed
INPUTS := pyproject.toml constraints.txt

TORCH := $(shell grep '^torch==' constraints.txt)
# Installed without the requirements they publish, which are older than this environment or far wider
# than what is used of them; what they do need is named instead.
FRAMEWORKS := snntorch spikingjelly nirtorch norse sinabs
FRAMEWORK_NEEDS := scipy matplotlib tqdm loguru requests pbr
# Two versions of one package cannot share an environment: the tests run the older one in a process of its own.
OLDER_FRAMEWORK := spikingjelly==0.0.0.0.14
OLDER_FOLDER := $(VENV)/$(subst ==,-,$(OLDER_FRAMEWORK))
LAVA := lava-nc lava-dl
LAVA_NEEDS := scipy networkx asteval

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs examples pytest fuzz bench bench-zoo clean

help:
	@echo "make demo      train, compile, verify and report a small network"
	@echo "make test      everything CI checks"
	@echo "make lint      ruff, mypy, import floors"
	@echo "make docs      build the documentation into build/docs"
	@echo "make examples  run every example"
	@echo "make bench     time and memory beside float networks, other libraries and Lava (some minutes; BENCH=--help)"
	@echo "make bench-zoo trace and fold every network of the zoo at full size (some minutes, 21 GiB; ZOO=names)"
	@echo "make fuzz      thousands of new random networks, every engine and Lava (FUZZ=20 times as many as CI)"
	@echo "make clean     remove .venv, build and caches"
	@echo "PYTHON=python3.12 selects the interpreter that creates .venv"

demo: $(RUNTIME)
	$(BIN)/snn2chip demo

# pytest runs last, so that its closing line is the last one.
test: lint docs examples pytest

lint: $(DEVELOPMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(DEVELOPMENT)
	$(BIN)/mkdocs build --quiet --strict

examples: $(DEVELOPMENT)
	@set -e; for example in examples/*.py; do \
		[ -e "$$example" ] || continue; \
		echo "running $$example"; \
		OMP_NUM_THREADS=1 $(BIN)/python "$$example"; \
	done

pytest: $(DEVELOPMENT)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet

fuzz: $(DEVELOPMENT)
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=fuzz SNN2CHIP_FUZZ=$(or $(FUZZ),20) $(BIN)/python -m pytest --quiet \
		tests/simulate/test_fast.py tests/emit/test_lava_random.py tests/emit/test_onnx.py tests/emit/test_nir.py

bench: $(DEVELOPMENT)
	PYTHONPATH=tests $(BIN)/python -m bench $(BENCH)

bench-zoo: $(DEVELOPMENT)
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m bench.zoo $(ZOO)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: everything after it then finds the build that is there, CPU or not.
# The Lava wheels drop a top-level package `tests` into site-packages, which hides a project's own.
$(RUNTIME): $(INPUTS) | $(BIN)/python
	$(PINNED) $(TORCH)
	$(PINNED) hatchling editables
	$(PINNED) --no-build-isolation --editable '.[torch,fast,demo]'
	$(PINNED) $(LAVA_NEEDS)
	$(PINNED) --no-deps --ignore-requires-python $(LAVA)
	rm -rf "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tests"
	touch $@

$(DEVELOPMENT): $(RUNTIME)
	$(PINNED) --no-build-isolation --editable '.[torch,fast,demo,dev]'
	$(PINNED) $(FRAMEWORK_NEEDS)
	$(PINNED) --no-deps $(FRAMEWORKS)
	$(BIN)/python -m pip --disable-pip-version-check --quiet install --no-deps --upgrade \
		--target $(OLDER_FOLDER) $(OLDER_FRAMEWORK)
	touch $@

clean:
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
