# Coalmine: `make help` lists what this file does. Everything needs only Python 3.11 or 3.12.
# Where `python3` is neither: `make setup PYTHON=python3.12`, once. One beside the other:
# `make test PYTHON=python3.12 VENV=.venv-3.12`.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := .tools/bin/uv
MEMBERS := services transformers monitors loadtests
# Which tests: the slow ones are long simulations and the other four scenarios of the demo.
MARK ?= not slow
# More options for pytest.
PYTEST ?=
# Runs of each world of `make bench-rollout`.
RUNS ?= 300
# Asked for another Python than .venv was made with: it is made again.
ifneq ($(origin PYTHON),file)
ifneq ($(shell cat $(VENV)/.done 2>/dev/null),$(PYTHON))
.PHONY: $(VENV)/.done
endif
endif
SUPPORTED := import sys; (3, 11) <= sys.version_info < (3, 13) or sys.exit("Coalmine needs Python 3.11 \
or 3.12, $(PYTHON) is %d.%d: say which to take, as in `make setup PYTHON=python3.12`" % sys.version_info[:2])
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock"

# One environment each for the servers that Coalmine is measured beside.
PEERS := $(basename $(notdir $(wildcard loadtests/peers/*.in)))

.PHONY: help setup lock check format test test-gpu alibi test-alibi demo bench bench-serving bench-rollout bench-monitors clean
.DEFAULT_GOAL := help

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup: $(VENV)/.done ## Make .venv from the lock, with the members installed editable

$(UV):
	$(or $(shell command -v $(PYTHON)),python3) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/.done: requirements/dev.txt $(MEMBERS:%=%/pyproject.toml) | $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)
	@$(BIN)/python -c '$(SUPPORTED)'
	VIRTUAL_ENV=$(VENV) $(UV) pip sync --quiet --require-hashes requirements/dev.txt
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --no-build-isolation $(MEMBERS:%=-e %)
	echo "$(PYTHON)" >$@

lock: | $(UV) ## Resolve the dependencies again and rewrite requirements/*.txt
	$(COMPILE) --group dev --no-emit-package coalmine --no-emit-package coalmine-transformers \
		--no-emit-package coalmine-monitors --no-emit-package coalmine-loadtests \
		pyproject.toml -o requirements/dev.txt
	$(COMPILE) services/pyproject.toml --extra serving --extra tracing --no-emit-package coalmine -c requirements/dev.txt -o requirements/services.txt
	$(COMPILE) monitors/pyproject.toml --no-emit-package coalmine -c requirements/dev.txt -o requirements/monitors.txt
	$(COMPILE) monitors/alibi/pyproject.toml --extra tensorflow \
		--override monitors/alibi/overrides.txt --no-emit-package coalmine \
		--no-emit-package coalmine-monitors -o requirements/alibi.txt
	for peer in $(PEERS); do $(COMPILE) loadtests/peers/$$peer.in -o requirements/bench-$$peer.txt; done

check: setup ## Lint, format check, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup ## Run the tests, the whole loop among them; `make test MARK=` adds the slow ones
	$(BIN)/pytest -m "$(MARK)" $(PYTEST)

test-gpu: | $(UV) ## Tests and benchmark on an NVIDIA GPU, in .venv-gpu, with onnxruntime-gpu
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-gpu
	VIRTUAL_ENV=.venv-gpu $(UV) pip install --quiet -c requirements/dev.txt \
		-e 'services[gpu,tracing]' -e transformers onnx pytest pytest-asyncio pytest-timeout
	.venv-gpu/bin/pytest -rA -s --timeout 600 tests/gpu

alibi: .venv-alibi/.done ## Make .venv-alibi, the environment of monitors/alibi, from its lock

.venv-alibi/.done: requirements/alibi.txt services/pyproject.toml monitors/pyproject.toml monitors/alibi/pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-alibi
	VIRTUAL_ENV=.venv-alibi $(UV) pip sync --quiet --require-hashes requirements/alibi.txt
	VIRTUAL_ENV=.venv-alibi $(UV) pip install --quiet -c requirements/dev.txt \
		hatchling editables pytest pytest-asyncio pytest-rerunfailures pytest-timeout
	VIRTUAL_ENV=.venv-alibi $(UV) pip install --quiet --no-deps --no-build-isolation \
		-e services -e monitors -e monitors/alibi
	touch $@

test-alibi: alibi ## Tests of monitors/alibi, in its own environment (1 GB of packages)
	.venv-alibi/bin/pytest -c monitors/alibi/pyproject.toml --rootdir monitors/alibi $(PYTEST) monitors/alibi/tests

demo: setup ## Run the whole loop once, unattended, and write a report to coalmine-report/
	$(BIN)/coalmine demo --report coalmine-report

bench: setup ## Measure, and print ratios
	$(BIN)/coalmine bench

bench-serving: setup ## Measure the server beside its peers (25 minutes; needs wrk, nghttp2-client, nginx-light)
	$(BIN)/coalmine bench serving --docs docs/benchmarks.md --plots docs/benchmarks

bench-rollout: setup ## Simulate rollouts, judged by us and by others' rules (10 minutes; RUNS=300)
	$(BIN)/coalmine bench rollout --runs $(RUNS) --docs docs/benchmarks-rollout.md --plots docs/benchmarks

bench-monitors: setup ## Measure the monitors beside their peers (40 minutes)
	$(BIN)/coalmine bench monitors --docs docs/benchmarks-monitors.md --plots docs/benchmarks

clean: ## Remove the environments, caches and local state
	rm -rf $(VENV) .venv-gpu .venv-alibi .tools .bench .coalmine .mypy_cache .ruff_cache .pytest_cache coalmine-report
