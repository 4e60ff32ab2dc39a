# `make demo` and `make test` set themselves up; `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
JOBS ?= 3
INSTALLED := $(VENV)/.installed

# Hundreds of processes that tests start would else compile each module anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test install audit clean

help:  # List the targets.
	@sed -n 's/^\([a-z]*\):.*  # /\1: /p' Makefile

install: $(INSTALLED)  # Make .venv with everything in it, the package as it is here.

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

demo: $(INSTALLED)  # The whole job on built-in pictures; finished steps are not repeated.
	$(PY) -m layered_plugin.demo

test: $(INSTALLED)  # ruff, then mypy beside pytest in JOBS=3 processes.
	$(VENV)/bin/ruff check .
	@mkdir -p build
	@echo "$(VENV)/bin/mypy, beside $(PY) -m pytest -n $(JOBS) --dist=worksteal"
	@$(VENV)/bin/mypy >build/mypy.log 2>&1 & mypy=$$!; trap "kill $$mypy" INT TERM; \
	$(PY) -m pytest -n $(JOBS) --dist=worksteal; tests=$$?; \
	wait $$mypy; types=$$?; cat build/mypy.log; exit $$((tests + types))

audit:  # Known holes in the versions of constraints.txt, by pip-audit; fails where the index can't say.
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	build/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

clean:  # Remove what the commands above have made; other data and runs stay.
	rm -rf $(VENV) build runs/demo data/judge-shapes-demo.pt data/shapes.zip data/shapes-masks.zip \
		data/shapes-test.zip data/shapes-test-masks.zip
