# Every verb makes its own .venv first; a machine needs python3 (>= 3.11) and make, no compiler.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CODEC  ?= hybrid
KEYS   ?= shared
# One more than cores: a quarter of its time a test waits, for a disk or for a process.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() + 1)')

.PHONY: demo test check fix soak bench bench-round docs docs-serve docs-release dist bundle lock clean help

help:
	@echo "make demo [CODEC=ckks] [KEYS=split]  hospitals average a model through an aggregator that cannot read it"
	@echo "make test [T=tests/ring] [WORKERS=0] [DURATIONS=50]"
	@echo "                        every test, or those of one place, one process more than cores unless told otherwise"
	@echo "make check              lint, format and types, as CI runs them"
	@echo "make fix                let ruff mend what it can"
	@echo "make soak               the slow loops"
	@echo "make bench [QUICK=1]    all codecs against stock TenSEAL, plaintext and the floor, side by side"
	@echo "make bench-round [QUICK=1]  whole rounds against plaintext, over loopback, 1 Gbit/s, 100 and 20 Mbit/s"
	@echo "make docs               the documentation as a site, in site/; a broken link is an error"
	@echo "make docs-serve         the same on http://127.0.0.1:8000, made anew when a page changes"
	@echo "make docs-release V=0.1 the same as one of the versions in the branch gh-pages"
	@echo "make dist               wheel and sdist, in dist/"
	@echo "make bundle [EXTRAS=server] [SYSTEM=windows-x86_64] [PY=3.12]"
	@echo "                        all wheels for a machine without internet, their hashes and an SBOM, in dist/"
	@echo "make lock [UPGRADE=1]   pin versions and hashes of everything (requirements.lock)"

# One stamp per set of packages, remade when one of them asks for something else.
demo_PACKAGES  := --editable . --editable ./examples
docs_PACKAGES  := --editable '.[docs]'
bench_PACKAGES := $(demo_PACKAGES) --editable ./benchmarks
dev_PACKAGES   := --editable '.[dev]' --editable ./examples --editable ./benchmarks
PIP            := $(BIN)/python -m pip install --quiet --disable-pip-version-check
$(VENV)/.stamp-%: pyproject.toml examples/pyproject.toml benchmarks/pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "he-agg needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing he-agg for $* into $(VENV) (once) ..."
	@$(if $(CI),$(PIP) --require-hashes --requirement requirements.lock)
	@$(PIP) $(if $(CI),--no-deps --no-build-isolation) $($*_PACKAGES)
	@touch $@

demo: $(VENV)/.stamp-demo
	$(BIN)/he-agg demo --codec $(CODEC) --keys $(KEYS)

# Where bytecode is switched off, each worker would rewrite every assert (18 s), and each of hundreds of interpreters
# that tests start compile our packages (0.3 s). Threads of linear algebra would wait for each other on cores that other
# test processes have, and spin while they do.
PYTEST := env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest
test: $(VENV)/.stamp-dev
	$(PYTEST) -m "not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		$(if $(DURATIONS),--durations=$(DURATIONS)) $(T)

soak: $(VENV)/.stamp-dev
	$(PYTEST) -m slow

bench: $(VENV)/.stamp-bench
	$(BIN)/python -m benchmarks.codecs $(if $(QUICK),--quick)

# As root, links are shaped by network namespaces and `tc`; otherwise by a proxy.
bench-round: $(VENV)/.stamp-bench
	$(BIN)/he-agg bench round $(if $(QUICK),--quick)
	$(BIN)/he-agg bench report

# Never with --quiet, which silences --strict as well. The variable keeps an advertisement out of what is printed.
docs docs-serve docs-release: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.stamp-docs
	$(BIN)/python -m mkdocs build --strict

docs-serve: $(VENV)/.stamp-docs
	$(BIN)/python -m mkdocs serve --strict

# Adds the pages of a version to the branch gh-pages of this clone, and points `latest` at them.
docs-release: $(VENV)/.stamp-docs
	@test -n "$(V)" || { echo "which version? make docs-release V=0.1"; exit 2; }
	PATH="$(CURDIR)/$(BIN):$$PATH" mike deploy --update-aliases $(V) latest
	PATH="$(CURDIR)/$(BIN):$$PATH" mike set-default latest

check: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@for system in win32 darwin; do \
		echo "mypy, what sites run, as on $$system"; \
		$(BIN)/mypy --platform $$system --no-warn-unreachable --cache-dir .mypy_cache/$$system \
			he_agg keys client_sdk || exit 1; \
	done

fix: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The time of the commit, so that whoever builds the same commit gets the same wheel, byte for byte.
dist bundle: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null)
dist: $(VENV)/.stamp-dev
	$(BIN)/python -m build --quiet --no-isolation

bundle: $(VENV)/.stamp-dev
	$(BIN)/python deploy/bundle.py \
		$(if $(EXTRAS),--extras $(EXTRAS)) $(if $(SYSTEM),--system $(SYSTEM)) $(if $(PY),--python $(PY))

# For all systems and Pythons at once; what is pinned already stays, unless it is asked to move.
lock: $(VENV)/.stamp-dev
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11.5 --generate-hashes --no-annotate --no-header \
		$(if $(UPGRADE),--upgrade) --extra dev pyproject.toml examples/pyproject.toml benchmarks/pyproject.toml \
		--no-emit-package he-agg --no-emit-package he-agg-examples --output-file requirements.lock

clean:
	rm -rf $(VENV) build dist site *.egg-info */*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis demo-report
