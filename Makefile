# Every target makes what it needs: a fresh clone and "make test" are enough.
#   make test ARGS="-k hook"      arguments for pytest
#   make test PYTHON=python3.13   the interpreter for a new environment
#   make test JOBS=0              one test after the other, in one process
VENV ?= .venv
PYTHON ?=
ARGS ?=
JOBS ?= 4

run = $(VENV)/bin/python -m
installed = $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo serve test bench lint types format ci clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(installed) ## See it work: a mail is sent, a worker is killed, no mail is lost
	@$(run) example_app.demo $(ARGS)

serve: $(installed) ## Run the example site, with a page that shows its mail
	@$(run) example_app.serve $(ARGS)

test: $(installed) ## Run the tests
	@$(run) pytest -n $(JOBS) --dist loadfile $(ARGS)

bench: $(VENV)-bench/.installed ## Measure speed beside others (ARGS=--quick for a short look)
	@$(VENV)-bench/bin/python -m tests.benchmarks $(ARGS)

lint: $(installed) ## Check style and format
	@$(run) ruff check .
	@$(run) ruff format --check .

types: $(installed) ## Check types
	@$(run) mypy

format: $(installed) ## Mend style and format
	@$(run) ruff check --fix .
	@$(run) ruff format .

ci: ## Run all that CI runs, on every interpreter of this machine
	@.ci/run

clean: ## Remove environments and caches
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .demo build dist

# The packages that we are measured beside: nobody else needs them.
$(VENV)-bench/.installed: pyproject.toml .ci/environment
	@.ci/environment "$(VENV)-bench" "$(PYTHON)" --group bench
	@touch $@

$(installed): pyproject.toml .ci/environment
	@.ci/environment "$(VENV)" "$(PYTHON)"
	@touch $@
