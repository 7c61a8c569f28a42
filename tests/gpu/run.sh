#!/bin/sh
# Runs all that needs a GPU, and writes what came of it with its environment.
#
#   tests/gpu/run.sh OUT BUNDLES
#
# BUNDLES is the folder that benchmarks/gpu_bundles.py has made, on any machine. PYTHON names an interpreter that has
# TensorRT (8.5 to 11) or TensorRT-RTX, cuda-python or pycuda, numpy, OpenCV, click, rich and pytest; python3 without it.
# SPLITE_GPU_LOW_MEMORY=1 builds engines without cuBLAS and cuDNN, SPLITE_GPU_LEVEL=0 in the least time;
# SPLITE_GPU_TESTS names other tests, SPLITE_GPU_TABLE has more options of gpu_table.py.
# OUT gets environment.json, tests.jsonl with the outcome and the figures of every test, tests.log, and table.jsonl.
set -u
out=${1:?"usage: tests/gpu/run.sh OUT BUNDLES"}
bundles=${2:?"usage: tests/gpu/run.sh OUT BUNDLES"}
python=${PYTHON:-python3}
cd "$(dirname "$0")/../.." || exit 1
mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd)
bundles=$(cd "$bundles" && pwd) || exit 1
SPLITE_GPU_BUNDLES=$bundles
PYTHONPATH=$PWD:$PWD/tests/shared${PYTHONPATH:+:$PYTHONPATH}
SPLITE_GPU_REPORT=$out/tests.jsonl
export SPLITE_GPU_BUNDLES SPLITE_GPU_REPORT PYTHONPATH
rm -f "$SPLITE_GPU_REPORT"

environment=$("$python" benchmarks/gpu_table.py --environment) || exit 1
printf '%s\n' "$environment" >"$out/environment.json"
"$python" -m pytest -q -p no:cacheprovider -W default \
  ${SPLITE_GPU_TESTS:-tests/gpu tests/runtime/test_session_contract.py} >"$out/tests.log" 2>&1
tests=$?
tail -n 25 "$out/tests.log"
"$python" benchmarks/gpu_table.py --bundles "$bundles" --out "$out/table.jsonl" ${SPLITE_GPU_LOW_MEMORY:+--low-memory} \
  ${SPLITE_GPU_LEVEL:+--optimization-level "$SPLITE_GPU_LEVEL"} ${SPLITE_GPU_TABLE:-}
table=$?
[ "$tests" -eq 0 ] && [ "$table" -eq 0 ]
