# Everything a person runs. `make quickstart` and `make test` need only Python 3.11 or newer with venv and pip:
# each makes .venv, installs the tested versions (constraints.txt) there, and finds them again the next time.
#
#   PYTHON=python3.12        the Python that makes .venv; for `make gpu`, the Python that runs
#   PIP_ARGS="..."           passed to pip, for example an index that has torch's CPU build
#   ARGS="--smoke"           passed to the quickstart and to gpu-train
#   PYTEST_ARGS="-k rotary"  passed to pytest
#   TEST_PROCESSES=2         that share the test files; each needs a core and about 3 GB
#   BENCHMARKS="train_mlm"   which benchmarks `make gpu` runs after the tests; empty: none
#   CRASH_KILLS=0            `make crash` kills each command before this many of its file-system events (40; 0: all)
#   GPU_SECONDS=560          time limit of `make gpu`, tests and benchmarks together; what is measured by then is kept
#   MODEL=DIR                the published directory that `make readers` opens, in place of small ones
#   RESULTS=DIR              where benchmarks write (outputs/benchmarks)

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
PYTEST_ARGS ?=
TEST_PROCESSES ?= 2
BENCHMARKS ?= train_mlm train_contrastive train_negatives search encode
GPU_SECONDS ?= 560
RESULTS ?= outputs/benchmarks
MODEL ?=

VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled when they are first imported, and half of them never are.
INSTALL := $(BIN)/python -m pip install --no-compile --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help quickstart test tests lint style types docs crash gpu gpu-train readers clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\): .*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

quickstart: $(VENV)/.installed-quickstart  ## train, evaluate and search with a small model (15 to 20 minutes on 2 cores)
	$(BIN)/python recipes/quickstart.py $(ARGS)

# The types beside the tests: mypy takes a minute and a half when it has no cache.
test: style  ## lint, types and every test that needs no GPU
	$(MAKE) --jobs 2 --no-print-directory types tests

lint: style types  ## ruff (rules and format) and mypy

style: $(VENV)/.installed-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/python -m mypy

tests: $(VENV)/.installed-test
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

docs: $(VENV)/.installed-test  ## build the documentation into outputs/site, strict about dead links
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# With the packages that $(PYTHON) has: nothing is installed, constrained or fetched.
gpu:  ## every test and every benchmark that needs a GPU, with the packages found (no .venv), in ten minutes
	@$(PYTHON) benchmarks/gpu.py --seconds $(GPU_SECONDS) --results $(RESULTS) --benchmarks $(BENCHMARKS) -- $(PYTEST_ARGS)

gpu-train:  ## a 12-layer embedder in about ten minutes on one GPU (estimated), with the packages found; --smoke tries it on a CPU
	HF_HUB_OFFLINE=1 $(PYTHON) recipes/gpu_train.py $(ARGS)

crash: $(VENV)/.installed-test  ## kill every command at its file-system events, restart it, compare what it leaves
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m crash $(PYTEST_ARGS) tests/crash

readers: $(VENV)/.installed-test  ## open published directories in every program that reads such; installs each (13 GB)
	PYTHONPATH=. $(BIN)/python -m tests.readers.run $(if $(MODEL),--model $(MODEL)) $(ARGS)

clean:  ## remove .venv, builds and caches; outputs/ stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
	find . -path ./.git -prune -o -name __pycache__ -type d -exec rm -rf {} +

# A pip that is there already is taken as it is, with what is installed beside it (torch's CPU build, say).
$(BIN)/pip:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Python 3.11 or newer is needed; choose one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c "import venv, ensurepip" || { echo "$(PYTHON) cannot make environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Both stamps go before pip starts and come back after it ends, so a half-made environment is never taken for whole.
# The test set contains the quickstart's.
$(VENV)/.installed-quickstart: pyproject.toml constraints.txt | $(BIN)/pip
	@rm -f $(VENV)/.installed-*
	$(INSTALL) $(PIP_ARGS) --editable ".[train,evaluation,map]"
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/pip
	@rm -f $(VENV)/.installed-*
	$(INSTALL) $(PIP_ARGS) --editable ".[train,evaluation,map,deepspeed,onnx,openvino,docs,dev]"
	@touch $@ $(VENV)/.installed-quickstart
