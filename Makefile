# make quickstart | test | lint: each makes its own virtual environment, nothing but Python 3.11 or 3.12 is needed.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
RUN := $(VENV)/bin/python
QUICKSTART := runs/quickstart

# Keeps the large temporary arrays of a training step on CPUs mapped from step to step; glibc alone reads it.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184

.PHONY: quickstart test lint
.DELETE_ON_ERROR:

quickstart: $(VENV)/installed
	$(RUN) -m deberta_jax.tools.train_tokenizer --input=builtin --vocab_size=4096 --output=$(QUICKSTART)/tokenizer
	$(RUN) -m deberta_jax.tools.prepare --input=builtin --tokenizer=$(QUICKSTART)/tokenizer --length=64 --holdout=10% --output=$(QUICKSTART)/data
	$(RUN) train.py --config=configs/quickstart.py --workdir=$(QUICKSTART)

test: $(VENV)/installed-dev
	$(RUN) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# The stamps are written last: an interrupted installation is done again.
$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
