# Everything a fresh clone needs is made here: a virtual environment in .venv, then the tests or the demo.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# from Python 3.12 on coverage can have the interpreter tell it what runs, which costs less
COVERAGE_CORE ?= $(shell $(PYTHON) -c "import sys; print('sysmon' if sys.version_info >= (3, 12) else 'ctrace')")

# tests side by side, each with its share of the cores; most of them start commands, and starting uses one core
WORKERS ?= 2

.PHONY: setup test test-slow slurm-test browser-test bench gpu-check kill-test fuzz demo demo-c2s demo-um-sam demo-aisct architecture lint clean

setup: $(VENV)/.ready

$(VENV)/.ready: setup.py pyproject.toml nnunetv2_clisc_discovery.pth
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip 'setuptools>=77' wheel
	$(BIN)/python -m pip install --quiet --no-compile -e '.[test]'  # Python compiles what it imports
	touch $@

test: setup lint
	COVERAGE_CORE=$(COVERAGE_CORE) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term

test-slow: setup
	$(BIN)/python -m pytest -m slow

# a real Slurm on this machine; as root, after apt-get install slurm-wlm munge; what it did is in slurm_test.log
slurm-test: setup
	$(BIN)/python -m pip install --quiet -e '.[test,slurm]'
	rm -f slurm_test.log
	CLISC_SLURM_LOG=slurm_test.log $(BIN)/python -m pytest -m slurm

# needs a Chromium: `apt-get install chromium`, or CHROMIUM=/path/to/one
browser-test: setup
	$(BIN)/python -m pip install --quiet -e '.[test,browser]'
	$(BIN)/python -m pytest -m browser

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.bench -o bench.json

# on a machine with a CUDA GPU, within nine minutes; a machine where `make setup` cannot fetch anything: GPU_PYTHON=python3
# DEVICE=cpu SMALL=1 shows in a minute that every part runs; SCANS=DIR MASKS=DIR trains on them too; docs/speed.md
GPU_PYTHON ?= $(BIN)/python
gpu-check: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),setup)
	$(GPU_PYTHON) -m benchmarks.gpu_check --device $(or $(DEVICE),cuda) $(if $(SMALL),--small) \
	$(if $(SCANS),--scans $(SCANS)) $(if $(MASKS),--masks $(MASKS)) $(ARGS)

# about half an hour, and a minute or two, on 2 cores; docs/reliability.md
kill-test: setup
	$(BIN)/python -m benchmarks.reliability.kill_test -o kill_test.json $(ARGS)

fuzz: setup
	$(BIN)/python -m benchmarks.reliability.fuzz -o fuzz.json $(ARGS)

# the picture and the table of docs/architecture.md, from the code
architecture: setup
	$(BIN)/python -m tools.architecture.draw

demo: setup
	$(BIN)/nnUNetv2_clisc demo -o demo_output

# pictures with labels instead of scans: Classification-to-Segmentation
demo-c2s: setup
	$(BIN)/nnUNetv2_clisc demo --method c2s -o demo_c2s_output

# no label of a slice: UM-SAM
demo-um-sam: setup
	$(BIN)/nnUNetv2_clisc demo --method um-sam -o demo_um_sam_output

# a lesion that only the other hemisphere gives away: AISCT-SAM
demo-aisct: setup
	$(BIN)/nnUNetv2_clisc demo --method aisct -o demo_aisct_output

clean:
	rm -rf $(VENV) build dist *.egg-info demo_output demo_c2s_output demo_um_sam_output demo_aisct_output .coverage .coverage.*
