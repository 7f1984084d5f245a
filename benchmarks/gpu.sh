#!/usr/bin/env bash
# Everything to do on a machine with a GPU, each command of at most ten minutes.
#
#   bash benchmarks/gpu.sh --checks FOLDER [SECONDS]     # tests, tables
#   bash benchmarks/gpu.sh --train FOLDER [SECONDS]      # a stretch of pretraining
#   bash benchmarks/gpu.sh FOLDER [SECONDS]              # both
#
# FOLDER receives at most eight files below 16 MB: logs.tar.gz (tests, tables, results as
# JSON, the training log), from checks what was compiled (caches.*), from a stretch the
# shards of the run's newest checkpoint, which benchmarks/shards.py joins again. Run it
# again with --train on the same machine and the run in runs/ goes on; on another one
# unpack the shards first.
#
# Compiling takes minutes where nothing was compiled before (on an H200 with 16 slow cores
# the first training step came after more than three): CACHES names a tar file of such
# caches to begin with, cat FOLDER/caches.* of an earlier run.
#
# RECIPE names another recipe, RUN another run directory, INITIAL weights to start from;
# CORPUS names a folder of FASTA files to be put where the recipe looks,
# ../shared/data/genomes; on a machine that has them,
#   mkdir FOLDER && cp $(grep -o '\.\./shared/data/genomes/[^"]*' RECIPE) FOLDER
# fills one. MINUTES ends the run, its
# learning rate included, that long after its first step; a stretch that reads fewer than
# LEAST bases a second (100,000; compiling not counted) four minutes after its start is
# given up, so that the time goes to finding out why. WEIGHTS_ONLY=1 leaves the shards
# out. Needs the package's dependencies (of them rich and pysam may be carried, and
# polars left out). PYTHON names the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."
began=$SECONDS
checks=1 train=1
[[ ${1:-} == --train ]] && checks=0 && shift
[[ ${1:-} == --checks ]] && train=0 && shift
out=${1:?give a folder for the results}
limit=${2:-570}
python=${PYTHON:-python3}
recipe=${RECIPE:-recipes/pretrain/crossdna-8m-eukaryote.toml}
run=${RUN:-runs/$(basename "$recipe" .toml)}
logs=$(mktemp -d)
mkdir -p "$out" runs
export PYTHONPATH="$PWD/src:${PYTHONPATH:-}" PYTHONUNBUFFERED=1
caches=$(mktemp -d)
export TRITON_CACHE_DIR=$caches/triton TORCHINDUCTOR_CACHE_DIR=$caches/inductor
[[ -n ${CACHES:-} ]] && tar xf "$CACHES" -C "$caches"

left() { echo $((limit - (SECONDS - began))); }

# step NAME SECONDS COMMAND...: with a limit, its output kept.
step() {
  local name=$1 most=$2
  shift 2
  (($(left) < most)) && most=$(left)
  ((most < 10)) && echo "$name: no time left" && return
  echo "== $name (at most $most s)"
  timeout --signal=INT --kill-after=15 "$most" "$@" 2>&1 | tee "$logs/$name.txt"
  echo "== $name: status ${PIPESTATUS[0]}, $((SECONDS - began)) s since the start"
}

collect() {
  cp benchmarks/results/*-cuda.json "$logs/" 2>/dev/null
  cp "$run"/training_log.jsonl "$run"/recipe.toml "$run"/provenance.json "$logs/" \
    2>/dev/null
  tar czf "$out/logs.tar.gz" -C "$logs" .
}

if [[ -n ${CORPUS:-} && ! -e ../shared/data/genomes ]]; then
  mkdir -p ../shared/data && ln -s "$(realpath "$CORPUS")" ../shared/data/genomes
fi
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader \
  | tee "$logs/gpu.txt"
if ((checks)); then
  # Beside the table's compiling, not beside its measuring.
  (
    # The whole network first: operators' many lengths may be cut off.
    step tests 170 "$python" -m pytest -q -m gpu tests/models/test_crossdna.py \
      tests/ops/test_delta_rule_kernels.py tests/ops -p no:cacheprovider -p no:benchmark -p no:xdist -W ignore --tb=short
    step agreement 150 "$python" benchmarks/agreement.py \
      --model weights/crossdna-8m-eukaryote --lengths 1024 100
  ) &
  rows='^crossdna-compiled (pretraining step|forward) bf16 1024$|^crossdna forward bf16 1024$'
  step compile 240 "$python" benchmarks/speed.py --device cuda --repeats 1 --no-save \
    --rows "$rows"
  wait
  step kernels 100 "$python" benchmarks/kernels.py --time
  step profile 60 "$python" benchmarks/speed.py --device cuda --profile --rows "$rows"
  # What was compiled is measured first; rows that compile anew may be cut off.
  step speed 90 "$python" benchmarks/speed.py --device cuda --repeats 5 --rows "$rows"
  step more 90 "$python" benchmarks/speed.py --device cuda --repeats 5 --rows \
    '^crossdna forward bf16 1000000$|^crossdna pretraining step bf16 1024$'
  collect
  tar cz -C "$caches" . | split -b 15m - "$out/caches."
fi
# The stretch ends with time to pack: pretrain saves what it has when it is interrupted
# at its last whole checkpoint, every save_every steps.
((train)) || exit 0
arguments=()
[[ -d $run ]] && arguments+=(--resume)
[[ -n ${MINUTES:-} ]] && arguments+=(--set "train.max_minutes=$MINUTES")
[[ -n ${COMPILE:-} ]] && arguments+=(--set "train.compile=$COMPILE")
[[ -n ${INITIAL:-} ]] && arguments+=(--set "train.initial=$INITIAL")
watch_rate() {
  sleep 240
  while sleep 10; do
    rate=$(grep -o '[0-9,]* bases/s' "$logs/train.txt" | tail -n 1 | tr -dc 0-9)
    ((${rate:-0} < ${LEAST:-100000})) || continue
    echo "given up: ${rate:-0} bases/s" >> "$logs/train.txt"
    pkill -INT -f 'crossdna pretrain'
    return
  done
}
watch_rate > /dev/null 2>&1 &
watcher=$!
step train $(($(left) - 45)) "$python" -m crossdna pretrain "$recipe" --output "$run" \
  "${arguments[@]}" --set train.save_every=${SAVE_EVERY:-500}
kill "$watcher" 2>/dev/null
if [[ -z ${WEIGHTS_ONLY:-} ]]; then
  step pack 40 "$python" benchmarks/shards.py pack "$run" "$out"
fi
collect
ls -l "$out"
