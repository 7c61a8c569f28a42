# Two commands matter: `make demo` and `make test`. Each makes .venv and installs what it needs.
# FUZZ="--seed 2 --count 5000" changes the run of `make fuzz`.
# LABELS=labels.json RECORD=results.jsonl let `make test-arm64` compare on photographs, and keep what it finds.
# PYTHON=python3.12 chooses an interpreter; IMAGE=photo.jpg gives the demo a photograph, BOX=x0,y0,x1,y1 says where the hand is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
STAMP := .venv/installed
DEMO := build/demo
SPLITE := $(BIN)/splite-deploy
HAND := models/splite_hand
PALM := splite_deploy/demo/palm.splite
THREADS := 1
SOAK := build/soak
ARM64 := build/arm64
# Without photographs int8 may move keypoints further: what is compared is int8, and not a mixture of it with float.
ARM64_PICTURES = $(if $(LABELS),--images "$(LABELS)" --calibration "$(LABELS)",--max-shift-px 4 --max-shift-mm 8)
ARM64_TESTS := tests/decoders/test_decode.py tests/decoders/test_not_finite.py tests/decoders/test_volume.py
FRAMES ?= 1000000
IN_CONVERTER := SPLITE_TFLITE_PYTHON=$${SPLITE_TFLITE_PYTHON:-$(CURDIR)/.venv-tflite/bin/python}

.PHONY: help demo demo-bundles docs test test-cpp test-arm64 arm64-machine arm64-networks arm64-cpp arm64-decoders test-two-machines lint unit fuzz kills soak converter converters providers newest oldest clean
.DELETE_ON_ERROR:

help:  ## Lists the commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/'

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10 to 3.13 with venv was found."; \
		echo "hint:  Install one (for example: apt install python3 python3-venv), or give its path: make PYTHON=/path/python3.11"; exit 1; }
	@echo "==> Making .venv with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@echo "==> Installing splite-deploy with the extra 'export' and the development tools (about 1 GB, a minute or two)"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[export]' --group dev
	@touch $@

demo: $(STAMP)  ## Exports, verifies, times and draws the hand network that comes with the repository
	@mkdir -p $(DEMO)
	@echo "==> Exporting $(HAND)/splite_hand.safetensors and comparing every step with torch"
	@$(SPLITE) export $(HAND)/splite_hand.safetensors --output $(DEMO)/hand.splite --overwrite
	@echo "==> Checking the bundle again, as a device would"
	@$(SPLITE) verify $(DEMO)/hand.splite
	@echo "==> Timing it on $(THREADS) thread"
	@$(SPLITE) bench $(DEMO)/hand.splite --threads $(THREADS) --json $(DEMO)/bench.jsonl
ifdef IMAGE
	@echo "==> Finding the keypoints in $(IMAGE)"
	@$(SPLITE) run $(DEMO)/hand.splite "$(IMAGE)" $(if $(BOX),--box $(BOX),--detector $(PALM)) --json $(DEMO)/hand.json --save $(DEMO)/overlay.png
else
	@echo "==> Rendering a hand and finding its keypoints"
	@box=$$($(BIN)/python $(HAND)/synthetic.py --example $(DEMO)/hand.png) && \
		$(SPLITE) run $(DEMO)/hand.splite $(DEMO)/hand.png --box "$$box" --json $(DEMO)/hand.json --save $(DEMO)/overlay.png
endif
	@echo
	@echo "Look at $(DEMO)/overlay.png. Next, with a photograph of a hand of your own:"
	@echo "  make demo IMAGE=photo.jpg"
	@echo "  $(SPLITE) run $(DEMO)/hand.splite photo.jpg --detector $(PALM) --save overlay.png"
	@echo "  $(SPLITE) inspect $(DEMO)/hand.splite"
	@echo "  $(SPLITE) --help"

docs: $(STAMP)  ## Builds the site of docs/ into build/site, with every link checked
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "Open build/site/index.html"

demo-bundles: $(STAMP)  ## Makes anew what the package brings along for 'splite-deploy demo', of the checkpoints in models/
	@$(BIN)/python models/make_demo.py

test: lint unit  ## Runs every check: style, types, import rules, tests

lint: $(STAMP)
	@echo "==> Style (ruff)"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "==> Types (mypy --strict)"
	@$(BIN)/mypy
	@echo "==> Import rules (import-linter)"
	@$(BIN)/lint-imports --no-cache | tail -n 4

converter: $(STAMP)
	@echo "==> Making the environment of TFLite's converter, where it is not there yet"
	@$(SPLITE) setup-tflite --folder .venv-tflite

converters: converter  ## Makes the environments of TFLite's converter, without TensorFlow and through it (3.3 GB)
	@! grep -qs '"direct": true' .venv-tflite/splite-tflite.json || \
		$(SPLITE) setup-tflite --folder .venv-tflite-tensorflow --tensorflow || \
		echo "warning: the tests of TFLite's converter through TensorFlow are skipped"

providers: $(STAMP)  ## Makes environments with other builds of ONNX Runtime, for the tests of its execution providers (1.9 GB)
	@for one in openvino qnn gpu; do \
		test ! -x .venv-ort-$$one/bin/python || continue; echo "==> Making .venv-ort-$$one"; \
		$(BIN)/python -m venv .venv-ort-$$one; beside=; test $$one != qnn || beside=onnxruntime; \
		.venv-ort-$$one/bin/python -m pip install --quiet onnxruntime-$$one $$beside . || { rm -rf .venv-ort-$$one; exit 1; }; \
	done

unit: converters
	@echo "==> Tests (pytest)"
	@$(BIN)/python -m pytest -n auto --dist worksteal

test-cpp: $(STAMP)  ## Tests the C++ runtime under sanitizers, on spoilt bundles and for leaks, for some minutes (needs g++)
	@echo "==> Tests of the C++ runtime under the sanitizers of addresses and undefined behaviour (pytest)"
	@SPLITE_TESTS_CPP=sanitized SPLITE_TESTS_CPP_BUNDLES=400 $(BIN)/python -m pytest -q tests/cpp
	@echo "==> Many frames, without and under the sanitizers"
	@$(BIN)/python benchmarks/cpp_frames.py $(if $(CPP_FRAMES),--frames $(CPP_FRAMES) --sanitized-frames $(CPP_FRAMES),--frames 5000 --sanitized-frames 2000)

test-arm64: $(if $(SPLITE_TFLITE_PYTHON),$(STAMP),converter) arm64-machine  ## Verifies networks on emulated ARM processors, for 3 minutes (needs qemu-user; makes TFLite's converter)
	@$(MAKE) --no-print-directory --jobs 2 --output-sync arm64-networks arm64-cpp arm64-decoders

arm64-machine: $(STAMP)
	@mkdir -p $(ARM64)
	@$(BIN)/python benchmarks/arm64/machine.py >/dev/null

arm64-networks:
	@echo "==> Exporting all that a CPU runs, and comparing emulated processors with this one"
	@$(IN_CONVERTER) $(SPLITE) export $(HAND)/splite_hand.safetensors -b ort -b tflite -p fp32 -p fp16 -p int8 \
		--crops 16 $(ARM64_PICTURES) -o $(ARM64)/hand.splite --overwrite >$(ARM64)/export.log 2>&1 || \
		{ cat $(ARM64)/export.log; exit 1; }
	@$(BIN)/python benchmarks/arm64_deviations.py $(ARM64)/hand.splite $(PALM) --same-bits $(if $(RECORD),--out "$(RECORD)")

arm64-cpp:
	@echo "==> The C++ runtime there, against Python here (pytest)"
	@if command -v aarch64-linux-gnu-g++ >/dev/null; then $(BIN)/python benchmarks/arm64/cpp.py; else \
		echo "warning: skipped for want of a compiler (apt install g++-aarch64-linux-gnu)"; fi

arm64-decoders:
	@echo "==> Tests of the decoders there (pytest)"
	@$(BIN)/python benchmarks/arm64/machine.py -- -m pytest -q -p no:cacheprovider $(ARM64_TESTS)

test-two-machines: test-arm64  ## Benchmarks and verifies on this and an emulated ARM machine at once, by ssh (needs openssh-server, too)
	@SPLITE_TESTS_ARM64="$(ARM64)" $(BIN)/python -m pytest -q -o faulthandler_timeout=1000 tests/remote/test_emulated.py

fuzz: $(STAMP)  ## Tries 20,000 spoilt inputs, for about half an hour, and prints what came of them
	@$(BIN)/python tests/robustness/fuzz.py $(FUZZ)

kills: converters  ## Kills commands at 300 random moments, for about half an hour, and judges what they leave (KILLS=...; makes converters)
	@mkdir -p build
	@$(IN_CONVERTER) $(BIN)/python tests/robustness/kills.py --json build/kills.jsonl $(KILLS)

soak: converters  ## Runs a million frames each with ONNX Runtime and LiteRT, for half an hour, and judges memory and results (FRAMES=...; makes converters)
	@mkdir -p $(SOAK)
	@test -d $(SOAK)/hand.splite || $(IN_CONVERTER) $(SPLITE) export $(HAND)/splite_hand.safetensors -b ort -b tflite -o $(SOAK)/hand.splite
	@test -d $(SOAK)/figures.splite || $(IN_CONVERTER) $(SPLITE) export tests/people/figures.safetensors -b ort -b tflite -o $(SOAK)/figures.splite
	@failed=0; for backend in ort litert; do \
		echo "==> $(FRAMES) frames with $$backend; look at $(SOAK)/$$backend.jsonl meanwhile"; \
		$(BIN)/python tests/robustness/soak.py --backend $$backend --bundle $(SOAK)/hand.splite --people $(SOAK)/figures.splite \
			--frames $(FRAMES) --log $(SOAK)/$$backend.jsonl || failed=1; \
	done; exit $$failed

newest: converters  ## Runs the tests with the newest releases that pyproject.toml allows, in an environment made first (makes converters)
	@$(BIN)/python tests/releases.py newest

oldest: converters  ## Runs the tests with the oldest releases that pyproject.toml allows, in an environment made first (makes converters)
	@$(BIN)/python tests/releases.py oldest

clean:  ## Removes .venv and everything built
	rm -rf .venv .venv-tflite .venv-tflite-tensorflow .venv-ort-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
