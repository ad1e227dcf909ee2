# diffscribe. `make` alone lists what there is.
#
#   make demo CLIP=talk.mp3     another file
#   make demo MODEL=fake        without a model, to try the rest
#   make load MODEL=embedded STREAMS=1
#   make serve ARGS="--host 0.0.0.0 --api-key secret"

PYTHON ?= python3
MODEL ?= embedded
CLIP ?= tests/data/digits.opus
STREAMS ?= 200
SECONDS ?= 60

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -c constraints.txt --build-constraint constraints.txt
WITH_SERVER := $(BIN)/python tests/with_server.py

# Tests wait most of their time: for speech to be played, for browsers, for clients to be installed.
# So they run in lanes, side by side. What only computes gives way to them; what judges how long
# something takes runs after all of them. A folder that is in no lane is in `computed`. One thread of
# torch each: threads that wait for each other by spinning take the cores from the other lanes.
LANES := lint types clients live served long computed
LIVE := tests/browser tests/client tests/docker
LONG := tests/long tests/integration/hostile
APART := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
ORDINARY := not gpu and not benchmark and not container
PYTEST := $(BIN)/python -m pytest -q
TEST := env OMP_NUM_THREADS=1 $(PYTEST) -m 'not alone and $(ORDINARY)'

.DEFAULT_GOAL := help
.PHONY: help demo serve test lint types load pictures clean $(LANES)

help: ## List these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

demo: .venv/server ## Start a server, stream CLIP through the client, show the transcript
	@$(WITH_SERVER) --model $(MODEL) -- stream-client file "$(CLIP)" --live

serve: .venv/server ## Serve on port 8000 until interrupted
	@$(BIN)/stream-server serve --model $(MODEL) $(ARGS)

test: .venv/dev ## Everything that CI runs
	@echo 'In lanes: $(LANES). Each shows what it did when it is through.'
	@$(MAKE) --no-print-directory $(APART) --jobs=$(words $(LANES)) $(LANES)
	$(PYTEST) -m 'alone and $(ORDINARY)'

clients:
	$(TEST) tests/integration/clients

live:
	$(TEST) $(LIVE)

long:
	$(TEST) $(LONG)

served:
	$(TEST) tests/integration $(addprefix --ignore=,tests/integration/clients $(LONG))

computed:
	nice -n 10 $(TEST) --timeout=300 tests $(addprefix --ignore=,$(LIVE) $(LONG) tests/integration)

lint: .venv/dev ## Style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev ## Static types
	$(BIN)/mypy

load: MODEL = fake
load: .venv/server ## Play STREAMS streams at once for SECONDS; the fake model unless MODEL is given
	@$(WITH_SERVER) --model $(MODEL) -- stream-client load tests/data/digits.opus \
		--streams $(STREAMS) --seconds $(SECONDS)

pictures: .venv/dev ## Make the pictures of the documentation again; look at them
	DIFFSCRIBE_TEST_PICTURES=client/pictures $(BIN)/python -m pytest -q tests/browser/test_pictures.py

clean: ## Remove .venv and everything that can be made again
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find client protocol stream_server tests -name __pycache__ -prune -exec rm -rf {} +

# Two stamps: each is newer than what it was made from, or is made again.

.venv/server: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt --upgrade pip
	$(INSTALL) -e '.[server]'
	@touch $@

.venv/dev: .venv/server
	$(INSTALL) -e '.[server,voices,eval,reference]' --group dev
	@touch $@
