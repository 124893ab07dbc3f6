# Every target sets itself up: a virtual environment in $(VENV), the package and what it needs, then the work.
VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
DATA ?= data
CODE := setup.py src metrics pipelines model_cards training benchmarks tests docs
RUN := $(VENV)/bin/.installed
TEST := $(VENV)/bin/.installed-test
DOCS := $(VENV)/bin/.installed-docs

.PHONY: quickstart reproduce test test-fast test-gpu style quality docs install

quickstart: $(RUN)  ## the whole loop on the built-in scenes, on a CPU
	@echo "== Running the whole loop on the built-in scenes: captions, masks, images, segmenters, report."
	$(VENV)/bin/seggen quickstart $(ARGS)

reproduce: $(RUN)  ## does synthetic data pay? hours; goes on where it was: make reproduce DATA=FOLDER ARGS="nuclei --seeds 0"
	@echo "== Running the studies of few labels, a seed after the other; stop it at any time, and call it again."
	$(VENV)/bin/python benchmarks/reproduce.py --data $(DATA) $(ARGS)

test: $(TEST)
	@echo "== Running the tests in two processes; they need no network and no GPU."
	$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile $(ARGS)

test-fast: $(TEST)
	@echo "== Running the tests that take seconds each, in two processes."
	$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile -m "not slow" $(ARGS)

test-gpu: $(TEST)
	@echo "== Running the tests that need a CUDA device, in one process; without one each is skipped and says so."
	$(VENV)/bin/python -m pytest -q -m gpu $(ARGS) tests/gpu

style: $(TEST)
	@echo "== Formatting the code and mending what ruff can mend."
	$(VENV)/bin/ruff check --fix $(CODE)
	$(VENV)/bin/ruff format $(CODE)

quality: $(TEST)
	@echo "== Checking style, most of which \`make style\` mends, and then types, which takes minutes."
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/ruff format --check $(CODE)
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

docs: $(DOCS)
	@echo "== Building the site into site/; every warning is an error."
	$(VENV)/bin/zensical build --clean --strict --config-file mkdocs.yml

install: $(TEST)
	@echo "== Installed for development. Activate with: source $(VENV)/bin/activate"

# Re-done when setup.py or constraints.txt changes. -e: edits count at once. -c: the versions that the tests ran with.
$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "seggen_hf needs Python 3.11 or newer with its venv module, and none was found." \
		"Install one (Debian, Ubuntu: apt install python3 python3-venv), or name it: make PYTHON=/path/to/python3"; exit 1; }
	@echo "== Making a virtual environment in $(VENV) with $(PYTHON)."
	$(PYTHON) -m venv $(VENV)

$(RUN): setup.py constraints.txt | $(VENV)/bin/python
	@echo "== Installing seggen_hf and what it needs into $(VENV) (a few minutes the first time; PyTorch is large)."
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(TEST): setup.py constraints.txt | $(VENV)/bin/python
	@echo "== Installing seggen_hf, what it needs and the test tools into $(VENV) (a few minutes the first time)."
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $(RUN) $@

$(DOCS): setup.py constraints.txt | $(VENV)/bin/python
	@echo "== Installing seggen_hf, what it needs and what builds its site into $(VENV)."
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $(RUN) $@
