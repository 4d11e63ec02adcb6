# Everything runs in .venv, made once with $(PYTHON) and pinned by constraints.txt (CPU wheels only).
#   make train ARGS="data=arithmetic seed=1"     make test ARGS="tests/test_runs.py -x"     make train PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
ARGS ?=
# Processes of the suite, one per core; tests of a file stay together, because they share what they compile.
SPREAD ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
BIN := $(VENV)/bin

.PHONY: train test test-fast bench bench-peers fuzz lint docs clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

train: $(VENV)/.has-base
	$(BIN)/python run_training.py $(ARGS)

test: $(VENV)/.has-test
	$(BIN)/pytest $(SPREAD) $(ARGS)

test-fast: $(VENV)/.has-test
	$(BIN)/pytest $(SPREAD) -m "not slow" $(ARGS)

# Every workload beside Tunix, and beside TRL where `make bench-peers` was run; about 40 minutes on two quiet cores.
# One workload, printed: make bench ARGS="--workload W1 --steps 5"
bench: $(VENV)/.has-base
	$(BIN)/python benchmarks/grpo_step.py --trl-python $(PEERS)/bin/python $(or $(ARGS),--save docs/results)
	$(BIN)/python benchmarks/performance_page.py

bench-peers: $(PEERS)/.has-peers

fuzz: $(VENV)/.has-test
	$(BIN)/python benchmarks/fuzz_graders.py --seconds 300 $(ARGS)

lint: $(VENV)/.has-lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python src

docs: $(VENV)/.has-docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf $(VENV) $(PEERS) docs/_build build dist .pytest_cache .ruff_cache .hypothesis

# One stamp for each extra; a stamp is as new as what it was installed from, so a second call installs nothing.
$(VENV)/.has-%: pyproject.toml constraints.txt | $(VENV)/.made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --editable "$(if $(filter base,$*),.,.[$*])"
	@touch $@

$(VENV)/.has-test: $(VENV)/.has-torch

# PyTorch, which the tests compare models of transformers with; where it cannot be had they are skipped.
$(VENV)/.has-torch: constraints.txt | $(VENV)/.made
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps \
	  --extra-index-url https://download.pytorch.org/whl/cpu $$(grep -E '^(torch|networkx|setuptools)==' $<)
	@touch $@

# PyTorch's wheels without CUDA have an index of their own, which is asked for nothing else.
$(PEERS)/.has-peers: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --extra-index-url https://download.pytorch.org/whl/cpu $$(grep '^torch==' $<)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(PYTHON) is missing or not Python 3.11, 3.12 or 3.13; choose one with make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments; install its venv module (Debian, Ubuntu: python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

.PRECIOUS: $(VENV)/.has-%
