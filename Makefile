# Everything a newcomer needs: `make demo`, `make test`. Each sets up .venv first.

# For PIPESTATUS: a soak prints and keeps what it prints.
SHELL := bash
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test soak long resume redo mutations bench lint audit clean

help:
	@echo "make demo   install, fetch vit_t, annotate four photographs, draw the masks over them"
	@echo "make test   install, run the test suite"
	@echo "make soak   install, run the long fault tests: random kills, races, fuzzing (two hours)"
	@echo "make long   install, run all other long tests: vit_l and vit_h, all inputs, examples and Python versions (half an hour)"
	@echo "make resume  install, measure what a resume over ten million images takes (five minutes)"
	@echo "make redo   install, measure what a million changed images cost the driver (five minutes)"
	@echo "make mutations  install, break the commit protocol in five ways; its tests must see each (ten minutes)"
	@echo "make bench  install, time the generator against the official one and peers (ten minutes on two cores)"
	@echo "make lint   install, check style, types and layers"
	@echo "make audit  ask PyPI for known vulnerabilities of the pinned dependencies; fails without an answer"
	@echo "make clean  remove .venv, caches and the demo"

# The stamp is newer than its inputs only if the whole installation succeeded.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/installed
	$(BIN)/python jobs/demo.py demo

# These run on two cores at once, each test with one thread: threads without a core wait for each other.
UNITS := $(addprefix tests/,amg benchmarks cli config docs end_to_end/test_refusals.py evaluation exports \
	faults/test_fuzz_images.py faults/test_proxy.py gpu infra masks model parity pipeline process \
	report results run safety storage torch utils test_automatic_mask_generator.py test_build_sam.py test_drawing.py \
	test_official_names.py test_security.py)
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup $(UNITS)
	$(BIN)/python -m pytest $(addprefix --ignore=,$(UNITS))

SOAK := tests/faults/results
soak: .venv/installed
	$(BIN)/python -m tests.faults.soak --output $(SOAK)/soak.json
	$(BIN)/python -m pytest -m soak tests/faults --no-header --durations=0 -s 2>&1 | tee $(SOAK)/pytest.txt; test $${PIPESTATUS[0]} -eq 0
	$(BIN)/python -m tests.faults.fuzz_images --mutations 20000 --seed 1 --output $(SOAK)/fuzz.json

resume: .venv/installed
	$(BIN)/python -m tests.faults.resume_at_scale --images 10000000 | tee $(SOAK)/resume.txt; test $${PIPESTATUS[0]} -eq 0

redo: .venv/installed
	$(BIN)/python -m tests.faults.redo_at_scale | tee $(SOAK)/redo.txt; test $${PIPESTATUS[0]} -eq 0

long: .venv/installed
	$(BIN)/python -m pytest -m soak --ignore tests/faults

mutations: .venv/installed
	$(BIN)/python -m tests.faults.mutations | tee $(SOAK)/mutations.txt; test $${PIPESTATUS[0]} -eq 0

bench: .venv/installed .venv-peers/installed
	$(BIN)/python -m jobs.benchmark

# What we are compared with has an environment of its own. One peer is on GitHub only: if that cannot be reached, the
# benchmark says so in its place and runs the others.
PEERS := infra/benchmarks
PEERS_PIP := .venv-peers/bin/python -m pip install --quiet --disable-pip-version-check
.venv-peers/installed: $(wildcard $(PEERS)/requirements-*.txt) constraints.txt
	$(PYTHON) -m venv .venv-peers
	$(PEERS_PIP) -c constraints.txt -r $(PEERS)/requirements-peers.txt
	$(PEERS_PIP) --no-deps -r $(PEERS)/requirements-no-deps.txt
	-$(PEERS_PIP) --no-deps --retries 0 -r $(PEERS)/requirements-github.txt --log .venv-peers/segment-anything-fast.log
	@touch $@

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Asks first for a release that is known to be vulnerable: an index that cannot answer says of every release that there
# is nothing to say, which is no pass.
AUDIT := .venv/audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off --desc off
.venv/audit/installed: infra/audit/requirements.txt
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check -r infra/audit/requirements.txt
	@touch $@

audit: .venv/audit/installed
	@$(AUDIT) -r infra/audit/known-vulnerable.txt 2>/dev/null | grep -qE 'CVE-|GHSA-|PYSEC-' || \
		{ echo "make audit: the vulnerability service (pypi.org) gives no answer, so nothing was audited" >&2; exit 1; }
	$(AUDIT) -r constraints.txt

clean:
	rm -rf .venv .venv-peers demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
