# One way to do each thing; .ci/run calls the same targets.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: setup demo test test-slow test-lowest bench check format clean

setup: $(READY)

# constraints.txt pins every package; pyproject.toml allows ranges.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/hemaseg demo --output demo

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# The lowest versions that pyproject.toml allows, in an environment of their own; they warn of each other.
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[dev]'
	$(VENV)-lowest/bin/python -m pytest -o filterwarnings= --numprocesses auto --dist loadfile -m "not slow"

# Other people's networks and software are for their rows of the table alone.
bench: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/hemaseg bench

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-lowest demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
