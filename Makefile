# Every target makes the environment it needs, from pyproject.toml, and again only when that file changed.
.DEFAULT_GOAL := help
.PHONY: help train evaluate data test predict demo plots notebook bench reproduce record mutants faults versions clean both-sets

PYTHON ?= python3
PYTHONS = $(foreach minor,11 12 13 14 15,$(shell python3.$(minor) -c 'import sys; print(sys.executable)' 2> /dev/null))
DATASET ?= mnist
# in the shell's quotes
dataset = '$(subst ','\'',$(DATASET))'
image = '$(subst ','\'',$(value IMAGE))'
# the second core augments, and on a busy machine the threads of a matrix product wait for one another
export OPENBLAS_NUM_THREADS ?= $(or $(OMP_NUM_THREADS),1)

given = $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
unknown = $(filter-out PYTHON DATASET ARGS FROM IMAGE RANKS ROOM OPENBLAS_NUM_THREADS OMP_NUM_THREADS,$(given))
ifneq ($(strip $(unknown)),)
$(error $(firstword $(unknown)) is no variable of this Makefile; a flag of train.py goes into ARGS="--epochs 20")
endif

.venv/%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --group $*
	@touch $@

help:  ## this list
	@awk -F ':.*  ## ' '/^## /{print "\n" substr($$0, 4)} /^[a-z]+:.*  ## /{printf "  %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@echo 'DATASET=fashion-mnist for clothes, DATASET=path/to/folder for your own samples (data/README.md);'
	@echo 'ARGS="--epochs 20" for any flag of train.py (ARGS=--help lists them);'
	@echo 'RANKS=4 trains with four processes, over MPI; PYTHON=python3.13 names the Python of a new .venv'

## Train and use
# what train.py prints goes on into the log beside the weights, too; exec, so that a signal to make reaches it
train: SHELL = bash
train: log = import argparse, pathlib; from data.load import weights_name as name; \
	parser = argparse.ArgumentParser(add_help=False); parser.add_argument("--dataset"); \
	parser.add_argument("--weights", default="weights/DATASET.pkl"); flags, _ = parser.parse_known_args(); \
	print(pathlib.Path(flags.weights.replace("DATASET", name(flags.dataset))).with_suffix(".log"))
train: .venv/train $(if $(RANKS),.venv/mpi) data  ## train on DATASET, keep the weights, print the test accuracy
	@log=$$(.venv/bin/python -c '$(log)' --dataset $(dataset) $(ARGS)); mkdir -p "$$(dirname "$$log")"; \
		exec > >(tee -ai "$$log"); exec $(if $(RANKS),.venv/bin/mpiexec -n $(RANKS)) \
		.venv/bin/python $(if $(RANKS),-m mpi4py) train.py --dataset $(dataset) $(ARGS)

evaluate: .venv/train data  ## score saved weights on the test set
	@.venv/bin/python train.py --dataset $(dataset) --evaluate $(ARGS)

data: .venv/train  ## fetch and verify the images of DATASET; FROM=folder takes them from there
	@.venv/bin/python -m data.fetch --dataset $(dataset) $(if $(FROM),--from '$(subst ','\'',$(FROM))')

both-sets: .venv/train
	@for name in mnist fashion-mnist; do .venv/bin/python -m data.fetch --dataset $$name || exit; done

predict: .venv/demo  ## say what IMAGE="my photo.png" shows; several: ARGS="b.png scans/*.jpg"; ARGS=--show saves the stages
	@$(if $(value IMAGE)$(ARGS),,echo 'name an image: make predict IMAGE=photo.png' >&2; exit 2;) \
		.venv/bin/python -m demo.predict --dataset $(dataset) $(ARGS) $(if $(value IMAGE),-- $(image))

demo: .venv/demo  ## serve the page to draw on; trains weights for DATASET if there are none
	@$(if $(findstring --weights,$(ARGS)),,.venv/bin/python -c 'import sys, demo.predict as p; \
		sys.exit(not p.weights_path(sys.argv[1]).exists())' $(dataset) || $(MAKE) --no-print-directory train ARGS=)
	@.venv/bin/python -m demo.app --dataset $(dataset) $(ARGS)

## Look
plots: .venv/demo data  ## draw the saved network of DATASET, and its run, into plots/DATASET
	@.venv/bin/python -m demo.plots --dataset $(dataset) $(ARGS)

notebook: .venv/demo  ## run the guided tour again: demo/walkthrough.py into demo/walkthrough.ipynb
	@$(MAKE) --no-print-directory data DATASET=mnist
	@.venv/bin/python -m demo.notebook

## Measure
record: .venv/bench data  ## train the best recipe for DATASET with seeds 0, 1 and 2; goes on where it was stopped
	@.venv/bin/python -m bench.record --dataset $(dataset) $(ARGS)

reproduce: .venv/bench both-sets  ## train the five published networks and print what they reach
	@.venv/bin/python -m bench.reproduce

bench: .venv/frameworks both-sets  ## time this project beside PyTorch, JAX, scikit-learn and Keras, from the command to weights and by epoch
	@.venv/bin/python -m bench.headline $(ARGS)
	@.venv/bin/python -m bench.compare

mutants: .venv/test  ## mutation testing: whether the tests notice a change of nn.py or train.py
	@.venv/bin/python -m bench.mutants $(ARGS)

faults: .venv/test data  ## fault injection: kills, damaged and hostile files, full disks; takes a while
	@.venv/bin/python -m bench.faults $(ARGS)

## Tidy
test: .venv/test $(if $(ROOM),.venv/$(ROOM))  ## lint, check types and test the core, or ROOM=bench or demo
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/pytest $(ROOM)

versions: .venv/versions both-sets  ## test all rooms with the oldest and the newest packages, on each Python found
	@test -e weights/mnist.pkl || $(MAKE) --no-print-directory train DATASET=mnist ARGS=
	@set -e; for python in $(PYTHONS); do for resolution in lowest-direct highest; do echo "$$python, $$resolution"; \
		.venv/bin/uv venv --quiet --clear --python $$python .venv/versions.d; \
		.venv/bin/uv pip install --quiet --python .venv/versions.d --resolution $$resolution --group test --group demo --group bench; \
		.venv/versions.d/bin/mypy; \
		for room in '' bench demo; do .venv/versions.d/bin/pytest $$room; done; \
	done; done

clean:  ## remove the environment and caches; images and weights stay
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
