#!/usr/bin/env bash
# Everything to do on a machine with a GPU: tests, speed table, long context, in this order.
#
#   bash benchmarks/gpu.sh [FOLDER FOR LOGS]
#
# Needs the package's dependencies, and flash-linear-attention for the fast delta rule
# (pip install .[gpu]); takes about eight minutes on a Hopper-class GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
logs=${1:-benchmarks/results}
export PYTHONPATH="$PWD/src:${PYTHONPATH:-}" PYTHONUNBUFFERED=1
python3 -m crossdna env | tee "$logs/gpu-env.txt"
timeout 240 python3 -m pytest -q tests/ops tests/models -m "gpu" -p no:cacheprovider 2>&1 | tee "$logs/gpu-tests.txt"
cd benchmarks
timeout 200 python3 speed.py --device cuda --dtypes bf16 float32 --lengths 1024 16384 \
    --only crossdna crossdna-straightforward 2>&1 | tee "$logs/gpu-speed.txt"
timeout 120 python3 long_context.py --device cuda --dtype bf16 2>&1 | tee "$logs/gpu-long.txt"
cp results/speed-cuda.json results/long-context-cuda.json "$logs/" 2>/dev/null || true
