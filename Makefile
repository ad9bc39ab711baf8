# Every target sets itself up: it makes .venv and installs what it needs, once.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=

.PHONY: run test test-full test-floor check format docs gif bench install clean
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
	$(PY) -m sb3_moe.study.first_run $(ARGS)

# torch takes a device of its own only before the first backward pass of a process.
ON_A_FAKE_DEVICE = SB3_MOE_FAKE_DEVICE=1 $(PY) -m pytest -n 2 tests/policies/test_fake_device.py tests/policies/test_fake_device_mutations.py

test: $(VENV)/.test  ## the test suite
	$(PY) -m pytest -n 2 -m "not full" $(ARGS)
	$(if $(ARGS),,$(ON_A_FAKE_DEVICE) -m "not full")

test-full: $(VENV)/.test  ## the whole product of algorithms, placements, routers and tokens
	$(PY) -m pytest -n 2 $(ARGS)
	$(if $(ARGS),,$(ON_A_FAKE_DEVICE))

# The lowest torch that pyproject.toml declares, where layers take the paths for a torch without `grouped_mm`.
FLOOR := .venv-floor
$(FLOOR)/.test: pyproject.toml
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install -e ".[contrib,test]" "torch==2.8.*"
	touch $@

test-floor: $(FLOOR)/.test  ## the tests of layers and policies with the lowest torch declared
	$(FLOOR)/bin/python -m pytest -n 2 -m "not full" tests/layers tests/policies $(ARGS)

install: $(VENV)/.dev  ## everything, every extra

check: $(VENV)/.dev  ## format, lint, types, tests
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -n 2 -m "not full"

format: $(VENV)/.dev
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: $(VENV)/.docs  ## the site, in build/site; its notebooks are run
	$(PY) -m sphinx -W --keep-going -d build/doctrees docs build/site
	$(PY) docs/_ext/check_links.py

gif: $(VENV)/.run  ## the film at the top of the README
	$(PY) examples/12_watch.py --gif docs/watch.gif

bench: $(VENV)/.dev  ## ratios against peers, measured in one run
	$(PY) -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) $(FLOOR) build *.egg-info envs/*.egg-info
