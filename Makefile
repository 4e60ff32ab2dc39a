# The two commands of the README: `make demo` and `make test`. Both set themselves up.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: demo test install clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

# The whole job on built-in pictures; finished steps are not repeated.
demo: $(INSTALLED)
	$(PY) -m layered_plugin.demo

test: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(PY) -m pytest

# Removes what the two commands have made; other data and runs stay.
clean:
	rm -rf $(VENV) build runs/demo data/judge-shapes-demo.pt data/shapes.zip data/shapes-masks.zip \
		data/shapes-test.zip data/shapes-test-masks.zip
