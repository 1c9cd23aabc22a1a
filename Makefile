# make quickstart [ARCH=x]   train, restore and evaluate NVLM-D, X and H on embedded pages; one table, one report
# make test                  ruff and every test that needs neither PyTorch nor TensorFlow
# make test-parity           tests against PyTorch and transformers, of Beam and S3, in .venv-parity
# make claims CLAIM=1        re-test one of the paper's claims in miniature; docs/claims.md has them all
# make env | lint | clean
# Python 3.11 or newer as `python3`, or named: make quickstart PYTHON=python3.12

PYTHON ?= python3
ARCH ?= d,x,h
FLAGS ?=
JOBS ?= 3

BIN := .venv/bin
PARITY := .venv-parity/bin
INSTALL := -m pip install --quiet --disable-pip-version-check
# uv installs in half the time; where it cannot (a registry that only pip's settings name), pip does.
QUICK_INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python $(1) || $(BIN)/python $(INSTALL) $(1)

# What the extra `test` of pyproject.toml installs.
TEST := requirements-serve.txt requirements-int8.txt requirements-plan.txt requirements-test.txt

# Every command here starts several processes: what one of them has compiled of the packages serves the others.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart env test test-parity claims lint clean

quickstart: .venv/.runtime
	$(BIN)/python -m launch.quickstart --archs=$(ARCH) $(FLAGS)

env: .venv/.test

test: lint
	$(BIN)/python -m pytest -m "not parity" -n $(JOBS) --dist worksteal

test-parity: .venv-parity/.parity
	$(PARITY)/python -m pytest -m parity

claims: .venv/.runtime
	@test -n "$(CLAIM)" || { echo "make claims needs the claim's number: make claims CLAIM=1 (docs/claims.md)"; exit 1; }
	$(BIN)/python -m launch.sweep --config=configs/sweeps/claims/claim_$(CLAIM).py --workdir=runs/claims/$(CLAIM) $(FLAGS)
	$(BIN)/python -m launch.report --sweep=runs/claims/$(CLAIM) --out=runs/claims/$(CLAIM)/report.html \
		--record=docs/claims/claim_$(CLAIM).json
	$(BIN)/python -m launch.report --claims=docs/claims --out=docs/claims.md

lint: .venv/.test
	$(BIN)/ruff check .

clean:
	rm -rf .venv .venv-parity .pytest_cache .ruff_cache

# A stamp is newer than the list of packages it stands for; quickstart needs the first alone.
.venv/.runtime: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("NVLM-JAX needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another one: make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python $(INSTALL) uv==0.13.9 || true
	$(call QUICK_INSTALL,-r requirements.txt)
	@touch $@

.venv/.test: .venv/.runtime $(TEST)
	$(call QUICK_INSTALL,$(addprefix -r ,requirements.txt $(TEST)))
	@touch $@

.venv-parity/.parity: requirements.txt $(TEST) requirements-parity.txt requirements-beam.txt
	$(PYTHON) -m venv .venv-parity
	$(PARITY)/python $(INSTALL) $(addprefix -r ,requirements.txt $(TEST) requirements-parity.txt)
	$(PARITY)/python $(INSTALL) --no-deps -r requirements-beam.txt
	@touch $@
