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

# Draw the built-in pictures, train the layered GAN on them, say where its layers can be seen.
demo: $(INSTALLED) data/shapes.zip
	$(PY) train_layered.py --outdir=runs --data=data/shapes.zip --cfg=demo

data/shapes.zip: | $(INSTALLED)
	$(PY) -m layered_plugin.shapes --dest=$@ --masks=data/shapes-masks.zip

test: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(PY) -m pytest

clean:
	rm -rf $(VENV) data runs build
