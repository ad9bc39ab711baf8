# Every target sets itself up: it makes .venv and installs what it needs, once.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=

.PHONY: run test test-full test-floor test-base test-integrations dist lint check format docs gif bench install clean
.DEFAULT_GOAL := run

$(PY):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sb3_moe needs Python 3.11 or newer; name one with: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# One stamp per set of extras; a change to pyproject.toml installs again.
$(VENV)/.run: pyproject.toml | $(PY)
	$(PY) -m pip install -e ".[cli,minatar]"
	touch $@

$(VENV)/.test: pyproject.toml | $(PY)
	$(PY) -m pip install -e ".[study,contrib,minatar,atari,mujoco,test]"
	touch $@

$(VENV)/.dev: pyproject.toml | $(PY)
	$(PY) -m pip install -e ".[study,contrib,minatar,atari,mujoco,dev]"
	touch $@ $(VENV)/.test $(VENV)/.run

$(VENV)/.docs: pyproject.toml | $(PY)
	$(PY) -m pip install -e ".[docs]"
	touch $@

run: $(VENV)/.run  ## train dense and MoE agents on two MinAtar games, and draw what happened
	@echo "Training dense and MoE agents on MinAtar games: a few minutes. Loading ..."
	$(PY) -m sb3_moe study run first-run --replays $(ARGS)

# Each process takes half of the tests, and then from the other's: a file's mostly stay together.
WORKERS ?= 2
IN_PARALLEL := -n $(WORKERS) --dist worksteal

test: $(VENV)/.test  ## the test suite
	$(PY) -m pytest $(IN_PARALLEL) -m "not full" $(ARGS)

test-full: $(VENV)/.test  ## products of algorithms, placements, routers and tokens, kills, notebooks
	$(PY) -m pytest $(IN_PARALLEL) $(ARGS)
	$(if $(ARGS),,$(MAKE) test-integrations)

# The lowest torch that pyproject.toml declares, where layers take the paths for a torch without `grouped_mm`.
FLOOR := .venv-floor
# All layers, without exports (torch's own, which got better since) and what takes time for its own sake.
ON_THE_FLOOR := tests/layers tests/policies/test_balancing.py \
	--ignore tests/layers/test_recorded.py --ignore tests/layers/test_memory.py
$(FLOOR)/.test: pyproject.toml
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install -q -e ".[contrib,test]" "torch==2.8.*"
	touch $@

test-floor: $(FLOOR)/.test  ## the tests of layers with the lowest torch declared
	$(FLOOR)/bin/python -m pytest $(IN_PARALLEL) -m "not full" $(or $(ARGS),$(ON_THE_FLOOR))

# What a user gets: the wheel and what it asks for, and tools in an environment of their own.
TOOLS := .venv-tools
BASE := .venv-base
$(TOOLS)/.ready:
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install -q build twine mypy
	touch $@

dist: $(TOOLS)/.ready  ## wheel and sdist, as PyPI takes them
	rm -rf dist
	$(TOOLS)/bin/python -m build
	$(TOOLS)/bin/python -m twine check --strict dist/*

test-base: dist  ## the wheel in an empty environment, without extras
	$(PYTHON) -m venv --clear $(BASE)
	$(BASE)/bin/python -m pip install -q dist/*.whl
	cd $(BASE) && bin/python -P ../tests/base/base_install.py
	cd $(BASE) && ../$(TOOLS)/bin/python -m mypy --strict --config-file= --python-executable bin/python ../tests/typed_program.py

# Other people's tools ask for versions of their own.
INTEGRATIONS := .venv-integrations
$(INTEGRATIONS)/.test: pyproject.toml
	$(PYTHON) -m venv $(INTEGRATIONS)
	$(INTEGRATIONS)/bin/python -m pip install -q -e ".[cli,zoo,hub,test]" "rl-zoo3[plots]" mlflow-skinny wandb
	touch $@

test-integrations: $(INTEGRATIONS)/.test  ## rl-baselines3-zoo, the Hub's library, MLflow and W&B
	$(INTEGRATIONS)/bin/python -m pytest $(or $(ARGS),tests/integrations tests/test_trackers.py)

install: $(VENV)/.dev  ## every tool, and the extras that `check` needs

lint: $(VENV)/.dev  ## format, lint, types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

check: lint test  ## format, lint, types, tests

format: $(VENV)/.dev
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: $(VENV)/.docs  ## the site, in build/site; its notebooks are run
	$(PY) -m sphinx -W --keep-going -d build/doctrees docs build/site
	$(PY) docs/_ext/check_links.py

gif: $(VENV)/.run  ## the film at the top of the README
	$(PY) examples/12_watch.py --gif docs/watch.gif
	$(PY) docs/_ext/draw_routing.py

bench: $(VENV)/.dev  ## ratios against peers, measured in one run
	$(PY) -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) $(FLOOR) $(TOOLS) $(BASE) $(INTEGRATIONS) build dist *.egg-info envs/*.egg-info
