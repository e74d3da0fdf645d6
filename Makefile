# The two commands of the README: `make demo` and `make test`. Both make their own virtual environment.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
NGINX := $(shell PATH="$$PATH:/usr/sbin:/sbin" command -v nginx)

# Small matrices only wait for more threads, and rows of tests side by side leave them no core.
export OPENBLAS_NUM_THREADS := 1
# The tests start hundreds of processes, and each would compile what it imports where this is set.
export PYTHONDONTWRITEBYTECODE :=

# Nights wait for most of their time, so that two rows of them run side by side; those of one row share their studies.
LATE := tests/night/test_analysis.py tests/night/test_picture.py tests/night/test_proof.py tests/night/test_real.py \
	tests/night/test_refusals.py tests/night/test_rows.py tests/night/test_four_gpus.py tests/night/test_length.py \
	tests/rehearsal/test_standin.py
EARLY := tests/night tests/test_confirm.py
# What computes for minutes, and minds no time.
SUMS := tests/sampler tests/clusters tests/rehearsal tests/test_forecast.py \
	tests/test_budget.py tests/test_rival.py tests/test_study.py tests/test_sampler.py tests/test_counting.py tests/test_space.py
# The same, once the other tests are through.
MORE := tests/belief
RUN := $(BIN)/python -m pytest --durations=10
# What compares figures of real time; where it is one of LATE, it comes last there.
QUIET = $(filter-out $(LATE),$(shell grep -rl --include='test_*.py' 'mark\.quiet' tests))
REST := $(patsubst %,--ignore=%,$(EARLY) $(LATE) $(SUMS) $(MORE))

.PHONY: demo test check coverage nginx format reference picture bench-peers clean

demo: $(VENV)/installed nginx
	@if PATH="$$PATH:/usr/sbin:/sbin" command -v nginx >/dev/null; then balancer=nginx; else balancer=direct; fi; \
	$(BIN)/autotune run studies/quickstart.toml --balancer $$balancer

test: $(VENV)/developed nginx
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@echo "nights, sums and mypy run beside the other tests, and are shown when they are over: nights wait, sums give way;"; \
	echo "what compares figures of real time comes last, when no other test runs"; \
	$(BIN)/mypy > $(VENV)/types.log 2>&1 & types=$$!; \
	$(RUN) $(EARLY) $(LATE:%=--ignore=%) > $(VENV)/early.log 2>&1 & early=$$!; \
	$(RUN) $(LATE) > $(VENV)/late.log 2>&1 & late=$$!; \
	nice -n 5 $(RUN) $(SUMS) $(LATE:%=--ignore=%) > $(VENV)/sums.log 2>&1 & sums=$$!; \
	$(RUN) -m "not quiet" $(REST); others=$$?; nice -n 5 $(RUN) $(MORE); more=$$?; \
	wait $$sums; added=$$?; wait $$early; first=$$?; wait $$late; second=$$?; wait $$types; typed=$$?; \
	cat $(VENV)/types.log $(VENV)/sums.log $(VENV)/early.log $(VENV)/late.log; \
	$(RUN) -m quiet $(QUIET); quiet=$$?; [ $$others$$more$$added$$first$$second$$typed$$quiet = 0000000 ]

# What a commit must pass, without the slow tests.
check: $(VENV)/developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -m "not slow"

# Which lines and branches the tests reach; whole nights and sums are left out, which take twice as long when counted.
coverage: $(VENV)/developed nginx
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(EARLY:%=--ignore=%) $(LATE:%=--ignore=%) $(SUMS:%=--ignore=%)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --skip-covered

format: $(VENV)/developed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What the tables of autotune/spec say, for people and for editors; a test compares.
reference: $(VENV)/installed
	$(BIN)/autotune reference > $(VENV)/reference && cp $(VENV)/reference studies/README.md
	$(BIN)/autotune reference --schema > $(VENV)/reference && cp $(VENV)/reference studies/study.schema.json

# The live view, as it is in the middle of a real run of the demo.
picture: $(VENV)/installed nginx
	$(BIN)/python -m autotune.console.picture studies/quickstart.toml notebooks/pictures/live.svg

# Ours and other load generators against a server whose times are known: 10 GB the first time, half an hour each time,
# on a machine that does nothing else. FLAGS="--write FILE" writes a page; FLAGS=--help shows the rest.
PEERS ?= $(HOME)/.cache/autotune-peers
bench-peers: $(VENV)/developed
	@$(BIN)/python -m tests.benchmarks.peers.install $(PEERS)
	$(BIN)/python -m tests.benchmarks.peers --peers $(PEERS) $(FLAGS)

# nginx is the one program that pip cannot bring. Where it cannot be installed either, the client spreads the requests.
# The unit is masked meanwhile: Debian's package would start a server on port 80 that nobody asked for.
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq -y
nginx:
	@[ -n "$(NGINX)" ] || { echo "installing nginx: $(SUDO) apt-get install nginx-light"; \
	  $(SUDO) systemctl mask --runtime nginx.service >/dev/null 2>&1; \
	  $(APT) install nginx-light >/dev/null 2>&1 \
	  || { $(APT) update >/dev/null 2>&1; $(APT) install nginx-light >/dev/null 2>&1; } \
	  || echo "nginx could not be installed; to do it yourself: sudo apt-get install nginx-light"; \
	  $(SUDO) systemctl unmask --runtime nginx.service >/dev/null 2>&1; true; }

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

# What is never imported needs no compiling: pip would do so for a third of its time.
$(VENV)/developed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -e '.[dev]'
	@touch $(VENV)/installed $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage* studies/quickstart studies/reference-deployment
