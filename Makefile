# `make setup` on a fresh machine with Python 3.11+ installs everything into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo demo-pretrain test test-transformers lint bench clean

setup: .venv/installed .venv/native

# torch goes first and alone: see constraints.txt.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable ".[finetune,embed,tracks,classical]"
	touch $@

# The compiled CPU kernels; without a compiler plain PyTorch runs in their place.
.venv/native: .venv/installed $(wildcard src/crossdna/ops/native/*.*)
	touch $@
	if command -v "$${CXX:-g++}" > /dev/null; then $(BIN)/crossdna env --build > $@ \
	|| echo "the CPU kernels could not be compiled: plain PyTorch runs in their place"; fi

# Fine-tunes ready-made weights on human promoters beside baselines, scores a VCF, changes
# a promoter base by base and writes demo/report.html. Interrupted and repeated it goes on
# from where it was.
demo: setup
	$(BIN)/crossdna demo --output demo

# Pretrains a small model on yeast instead and measures it on chromosomes it never saw.
demo-pretrain: setup
	$(BIN)/crossdna demo recipes/pretrain/yeast-demo.toml \
		--annotation data/sacCer3/sacCer3.gff.gz \
		--locus chrXV:721,876-721,975 --locus-name "Start of HIS3" --output demo-pretrain

# What benchmarks/README.md explains; about fifteen minutes on two quiet cores. What a
# cut run has measured at this commit is not measured again.
bench: setup
	$(BIN)/python benchmarks/speed.py --resume
	$(BIN)/python benchmarks/operators.py
	$(BIN)/python benchmarks/speed_report.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# The tests under the newest transformers, or under VERSION=5.17.0, the oldest allowed.
test-transformers: setup
	$(BIN)/python -m pip install --quiet --upgrade --target .transformers \
		"transformers$(if $(VERSION),==$(VERSION))"
	PYTHONPATH="$(CURDIR)/.transformers" $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

clean:
	rm -rf .venv .transformers demo demo-pretrain
