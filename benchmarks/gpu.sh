#!/usr/bin/env bash
# Everything to do on a machine with a GPU, in one command of at most ten minutes.
#
#   bash benchmarks/gpu.sh FOLDER [SECONDS]              # checks, tables, then a stretch
#   bash benchmarks/gpu.sh --train FOLDER [SECONDS]      # only the stretch, resumed
#
# FOLDER receives at most eight files below 16 MB: logs.tar.gz (tests, tables, results as
# JSON, the training log) and the shards of the run's newest checkpoint, which
# benchmarks/shards.py joins again. Run it again with --train on the same machine and the
# run in runs/ goes on; on another one unpack the shards first.
#
# RECIPE names another recipe, RUN another run directory; CORPUS names a folder of FASTA
# files to be put where the recipe looks, ../shared/data/genomes. WEIGHTS_ONLY=1 leaves
# the shards out. Needs the package's dependencies (of them rich may be carried) and, for
# the fast delta rule, flash-linear-attention. PYTHON names the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."
began=$SECONDS
checks=1
[[ ${1:-} == --train ]] && checks=0 && shift
out=${1:?give a folder for the results}
limit=${2:-570}
python=${PYTHON:-python3}
recipe=${RECIPE:-recipes/pretrain/crossdna-8m-eukaryote.toml}
run=${RUN:-runs/$(basename "$recipe" .toml)}
logs=$(mktemp -d)
mkdir -p "$out" runs
export PYTHONPATH="$PWD/src:${PYTHONPATH:-}" PYTHONUNBUFFERED=1

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
  step env 40 "$python" -m crossdna env
  step tests 130 "$python" -m pytest -q -m gpu tests/ops tests/models \
    -p no:cacheprovider --continue-on-collection-errors
  step agreement 60 "$python" benchmarks/agreement.py
  step speed 170 "$python" benchmarks/speed.py --device cuda --repeats 5 --rows \
    '^crossdna.* (forward bf16 (1024|16384)|training step bf16|pretraining step bf16)'
  step long 60 "$python" benchmarks/long_context.py --device cuda --dtype bf16
  collect
fi
# The stretch ends with time to pack: pretrain saves what it has when it is interrupted
# at its last whole checkpoint, every save_every steps.
resume=()
[[ -d $run ]] && resume=(--resume)
step train $(($(left) - 45)) "$python" -m crossdna pretrain "$recipe" --output "$run" \
  "${resume[@]}" --set train.keep=last --set train.save_every=${SAVE_EVERY:-100} \
  --set train.compile="${COMPILE:-false}" --set train.workers="${WORKERS:-8}"
if [[ -z ${WEIGHTS_ONLY:-} ]]; then
  step pack 40 "$python" benchmarks/shards.py pack "$run" "$out"
fi
collect
ls -l "$out"
