# Everything runs from .venv, which the first target that needs it creates. Needs Python 3.11 or newer and make.
PYTHON ?= python3
PYTEST_FLAGS ?= --numprocesses 2 --dist loadgroup

BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test test-slow test-emulated-gpu docs lint format bench clean

# About a minute; Adam at the best of five learning rates. Replaces what the last demo left in runs/demo.
demo: $(INSTALLED)
	rm -rf runs/demo
	$(BIN)/surmin compare --methods sm,adam,gd-armijo --lr adam=0.001,0.003,0.005,0.01,0.02 \
		--data digits --layers 8 --rounds 300 --target-loss 1e-3 --seeds 3 --out runs/demo

test: $(INSTALLED)
	$(BIN)/pytest -m "not slow" $(PYTEST_FLAGS)

test-slow: $(INSTALLED)
	$(BIN)/pytest -m slow $(PYTEST_FLAGS)

# The tests as on a GPU, on a machine without one; needs a C++ compiler. Left out: what the emulation itself changes
# (every process loads torch), and a kernel that only GPUs have.
test-emulated-gpu: $(INSTALLED)
	$(BIN)/python -m tests.emulated_gpu.build
	PYTHONPATH=$(CURDIR)/tests/emulated_gpu/startup $(BIN)/pytest --device cuda $(PYTEST_FLAGS) \
		--deselect tests/test_cli.py::test_help_does_not_wait_for_what_it_does_not_need \
		--deselect tests/test_cli.py::test_who_starts_workers_leaves_torch_to_them \
		--deselect tests/stages/test_linearize.py::test_a_layer_that_does_not_return_one_tensor_is_named

# The examples in the docstrings, and the site, into site/; open site/index.html.
docs: $(INSTALLED)
	$(BIN)/pytest --doctest-modules src $(PYTEST_FLAGS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# Leaves .venv and runs/ alone.
clean:
	rm -rf build dist site src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --no-compile --constraint constraints.txt --editable '.[dev]'
	@# On all cores, where pip compiles on one. A file of torch's tests is for newer Pythons.
	$(BIN)/python -m compileall -qq -j 0 .venv/lib src || true
	touch $@
