# `make demo` and `make test` set up everything themselves, in .venv. On Windows: see README.md.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test lint format docs serve-docs bench bench-compare wheel clean

$(VENV)/.installed: pyproject.toml setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -c constraints.txt torch
	$(RUN) -m pip install --quiet -c constraints.txt -e .[dev,demo]
	touch $@

demo: $(VENV)/.installed
	$(RUN) -m any2point_hf.example

test: $(VENV)/.installed
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed
	$(RUN) -m ruff check .

format: $(VENV)/.installed
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

docs: $(VENV)/.installed
	$(RUN) -m mkdocs build --strict

serve-docs: $(VENV)/.installed
	$(RUN) -m mkdocs serve

bench: $(VENV)/.installed
	$(RUN) benchmarks/bench.py

bench-compare: $(VENV)/.installed
	$(RUN) benchmarks/bench_compare.py

wheel: $(VENV)/.installed
	$(RUN) -m build

clean:
	rm -rf $(VENV) build dist demo_output bench_output site *.egg-info
