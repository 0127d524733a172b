# Each target sets up what it needs in .venv and reuses what is there.
PYTHON ?= python3
VENV   := .venv
# The ends of the ranges in pyproject.toml; uv fetches a Python that is not there.
LOWEST_PYTHON ?= 3.11
NEWEST_PYTHON ?= 3.13
RUN    := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help bench experiments speed peers test test-lowest test-newest fuzz kill architectures check figures board docs clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

bench: $(VENV)/.run  ## run the main job: every part of the suite, small (10 minutes on 2 cores)
	$(RUN) -m benchmarks.run experiment=quickstart

experiments: $(VENV)/.run  ## run the default set of experiments (4 hours on 2 cores; skips what is done)
	$(RUN) -m benchmarks.experiments --run

speed: $(VENV)/.run  ## how fast it is, against the hardware and the peers that are installed
	$(RUN) -m benchmarks.speed

peers: $(VENV)/.run  ## install sae-lens and others, which `make speed` and some tests compare with
	$(RUN) -m pip install --quiet -c constraints.txt -e '.[peers]'
	$(RUN) -m pip install --quiet --no-deps dictionary-learning==0.1.0

test: $(VENV)/.dev  ## run the tests
	$(RUN) -m pytest -n auto --maxprocesses 4 --dist loadgroup

test-lowest: .venv-lowest/.done  ## run the tests with the oldest versions that pyproject.toml allows
	.venv-lowest/bin/python -m pytest -n auto --maxprocesses 4 --dist loadgroup

test-newest: .venv-newest/.done  ## run the tests with the newest versions there are
	.venv-newest/bin/python -m pytest -n auto --maxprocesses 4 --dist loadgroup

fuzz: $(VENV)/.dev  ## damage 5,000 foreign files at random and read them with every command (half an hour)
	$(RUN) -m tests.fuzz

kill: $(VENV)/.dev  ## kill a tiny sweep 200 times: it ends as it would have, bit by bit (minutes)
	$(RUN) -m tests.fuzz.kill

architectures: $(VENV)/.dev  ## every causal architecture of transformers, tiny, at every site (3 minutes)
	$(RUN) -m pytest -o addopts='' -q tests/test_architectures.py

check: $(VENV)/.dev  ## lint, format, types, layers and sizes
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports
	$(RUN) .ci/structure.py

figures: $(VENV)/.run  ## redraw every figure from the published records
	$(RUN) -m benchmarks.figures --records published

board: $(VENV)/.run  ## rebuild the leaderboard page from all records
	$(RUN) -m benchmarks.leaderboard --records both

docs: $(VENV)/.docs  ## build the documentation site into site/ (open site/index.html; no network)
	$(VENV)/bin/mkdocs build --strict --quiet

.venv-lowest/.done .venv-newest/.done: pyproject.toml $(VENV)/.run
	$(RUN) -m pip install --quiet uv
	$(VENV)/bin/uv venv --quiet --clear --python $(if $(findstring lowest,$@),$(LOWEST_PYTHON),$(NEWEST_PYTHON)) $(@D)
	$(VENV)/bin/uv pip install --quiet --python $(@D)/bin/python \
	    --resolution $(if $(findstring lowest,$@),lowest-direct,highest) -e '.[test]'
	@touch $@

clean:  ## remove .venv and its kind (records, checkpoints and the model cache stay)
	rm -rf $(VENV) .venv-lowest .venv-newest

# torch goes first and pinned: nothing else may pull in another build of it.
$(VENV)/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else "gradsae needs Python 3.11 to 3.13, got %d.%d; name one: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -c constraints.txt torch
	$(RUN) -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(RUN) -m pip install --quiet -c constraints.txt -e '.[test,lint,docs]'
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	$(RUN) -m pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@
