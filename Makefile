# Two commands matter: `make quickstart` and `make test`. Both make their own environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
RUN_DIR ?= runs/quickstart
TABLE_RUN_DIR ?= runs/digits

.PHONY: quickstart quickstart-table test test-slow lint docs parity torture clean

quickstart: .venv/installed
	$(BIN)/groundup run examples/quickstart.toml --run-dir $(RUN_DIR)

quickstart-table: .venv/installed-examples
	$(BIN)/groundup run examples/digits.toml --run-dir $(TABLE_RUN_DIR)

test: .venv/installed-dev
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/groundup recipe reference > docs/recipe.md

# Every layout against one process, 199 rows; writes docs/parity.md.
parity: .venv/installed
	$(BIN)/groundup parity examples/tiny.toml --processes 4 --page docs/parity.md

# A training through at least 200 faults, about three quarters of an hour; writes its table into docs/reliability.md.
torture: .venv/installed
	$(BIN)/groundup torture examples/tiny.toml --minutes 45 --seed 1 --page docs/reliability.md

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Groundup needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 quickstart"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e .
	@touch $@

# scikit-learn carries the table of digits.
.venv/installed-examples: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[examples]'
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
