# Everything runs inside .venv, made from requirements.lock by the first target that
# needs it and made anew when the lock or the Python version changes.
#
#   make demo         the whole method on the real kitchen in minutes, two CPU cores
#   make kitchen      the real kitchen solved, an hour and a half on two CPU cores
#   make kitchen-partial   the task that no demonstration does, in four runs, hours
#   make watch        ten episodes of the trained policy, counted, and a video
#   make paper-mini   the paper's five figures on a kitchen in miniature
#   make paper-mini-full   the same with three times the updates, three seeds of all
#   make gpu-check    the update compiled for an H200 that need not be there, counted
#   make test         format, lint, types, import contracts, documentation, tests
#   make test-slow    the tests that take minutes
#   make wheel-check  the wheel in an empty environment, from doctor to report
#   make soak         kills, full disks, flipped bits, hostile files: counts, for hours
#   make docs         the documentation as a site, build/site/index.html
#   make format       rewrite the sources in the house format
#   make lock         resolve requirements.lock again from pyproject.toml
#   make clean        remove the environment and caches; runs stay
#
# PYTHON chooses the interpreter (3.11 to 3.13): make test PYTHON=python3.12
# ARGS is handed on: make demo ARGS="--workdir=runs/demo --config.seeds=1"

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
  $$python -c "" 2>/dev/null && echo $$python && break; done)
PYTEST_WORKERS ?= 2
ARGS ?=

VERSION := $(shell $(PYTHON) -c "import sys; print('%d.%d' % sys.version_info[:2])")
BIN := .venv/bin
INSTALLED := .venv/installed-$(VERSION)

.PHONY: install demo kitchen kitchen-partial watch paper-mini paper-mini-full gpu-check test test-slow wheel-check soak docs format lock clean

install: $(INSTALLED)

$(INSTALLED): requirements.lock
	@case "$(VERSION)" in 3.11|3.12|3.13) ;; *) \
	  echo "Python '$(VERSION)' from '$(PYTHON)' is not supported: use" \
	    "3.11, 3.12 or 3.13, for example: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
	  exit 1 ;; esac
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: $(INSTALLED)
	$(BIN)/python -m experiments.run --config=experiments/configs/mixed.py:cpu $(ARGS)

watch: $(INSTALLED)
	$(BIN)/python -m experiments.watch $(ARGS)

kitchen: $(INSTALLED)
	$(BIN)/python -m experiments.run --config=experiments/configs/mixed.py:desktop $(ARGS)

kitchen-partial: $(INSTALLED)
	$(BIN)/python -m launch.stages $(ARGS)

# What was interrupted goes on with the same command.
MINI_RUNS ?= runs/mini
MINI_RESULTS ?= results/mini

paper-mini: $(INSTALLED)
	$(BIN)/python -m launch.sweeps --figure=all --size=mini --run=local --jobs=2 \
	  --out=$(MINI_RUNS) --table=$(MINI_RESULTS)/runs $(ARGS)
	$(BIN)/python -m experiments.figures --runs=$(MINI_RUNS) --out=$(MINI_RESULTS)
	$(BIN)/python -m experiments.report --runs=$(MINI_RUNS) \
	  --figures=$(MINI_RESULTS) --out=$(MINI_RESULTS)/report.html

# Three times the updates, three seeds of everything.
paper-mini-full: $(INSTALLED)
	$(BIN)/python -m launch.sweeps --figure=all --size=mini --run=local --jobs=2 --seeds=3 \
	  --override=training.offline_updates=1500 \
	  --override=training.online_episodes=300 --override=optimizer.decay_steps=3000 \
	  --override=training.evaluate_every=300 --override=training.checkpoint_every=300 \
	  --out=$(MINI_RUNS)-full --table=$(MINI_RESULTS)-full/runs $(ARGS)
	$(BIN)/python -m experiments.figures --runs=$(MINI_RUNS)-full --out=$(MINI_RESULTS)-full
	$(BIN)/python -m experiments.report --runs=$(MINI_RUNS)-full \
	  --figures=$(MINI_RESULTS)-full --out=$(MINI_RESULTS)-full/report.html

# An environment beside .venv, with the CUDA wheels (3 GB) of the lock's jax or of
# another: make gpu-check PYTHON=python3.12 JAX=0.11.2
JAX ?=
GPU_ENV := .venv-gpu-$(VERSION)$(if $(JAX),-jax$(JAX))
GPU_PYTHON := $(GPU_ENV)/bin/python

$(GPU_ENV)/installed: requirements.lock
	$(PYTHON) -m venv --clear $(GPU_ENV)
	$(GPU_PYTHON) -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(GPU_PYTHON) -m pip install --quiet --no-deps --no-build-isolation --editable .
	version=$$($(GPU_PYTHON) -c "import jax; print(jax.__version__)"); \
	  $(GPU_PYTHON) -m pip install --quiet "jax[cuda13]==$(or $(JAX),$$version)"
	touch $@

# Without a card JAX is told not to look for one.
gpu-check: $(GPU_ENV)/installed
	JAX_PLATFORMS=cpu JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 \
	  $(GPU_PYTHON) -m experiments.gpu_check $(ARGS)

test: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	$(BIN)/python -m pytest --numprocesses $(PYTEST_WORKERS) --dist loadfile $(ARGS)

# The documentation as a site, build/site/index.html.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses $(PYTEST_WORKERS) --dist loadfile -m "slow and not gpu" $(ARGS)

# Installs what the wheel asks for from the package registry, about 1 GB.
wheel-check: $(INSTALLED)
	$(BIN)/python -m tests.wheel_check $(ARGS)

# What is promised, tried with faults from outside: results/reliability.md. What was
# tried is not tried again; ARGS="--rows=R3 --count=20" chooses.
soak: $(INSTALLED)
	$(BIN)/python -W ignore -m experiments.soak $(ARGS)

format: $(INSTALLED)
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

# One lock for Python 3.11 to 3.13 on Linux and macOS; wants `uv` on the path.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-header --extra dev --extra tensorboard --extra metaworld \
	  --output-file requirements.lock pyproject.toml

clean:
	rm -rf .venv .venv-gpu-* .pytest_cache .ruff_cache .import_linter_cache moto_jax.egg-info build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
