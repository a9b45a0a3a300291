#!/usr/bin/env bash
# The study of docs/analysis.md: after the quick start, trains the parallel model and the baseline
# with other seeds at the quick start's settings, then analyses all of them. About 40 minutes on one
# core; goes on where it stopped.
#   bash scripts/analysis_study.sh                   runs/quickstart -> runs/analysis, seeds 2 and 3
#   bash scripts/analysis_study.sh QUICKSTART_RUN OUTPUT DATA SEED ...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in -h | --help) sed -n '2,7s/^# //p' "$0"; exit 0 ;; esac
quickstart=${1:-runs/quickstart} output=${2:-runs/analysis} data=${3:-data-bin/tatoeba_en_de/bin}
seeds=("${@:4}")
[ ${#seeds[@]} -gt 0 ] || seeds=(2 3)
[ -f "$quickstart/commands.sh" ] || {
  echo "analysis_study: error: $quickstart/commands.sh: no quick start there; run scripts/quickstart.sh" >&2
  exit 1
}
# the quick start's own environment: threads, and memory allocation that is faster
# shellcheck disable=SC1090
source <(grep '^export ' "$quickstart/commands.sh")

# a flag's value in the quick start's training of the baseline
setting() {
  sed -n "/^fairseq-train .*_baseline /{s/.* $1 \([^ ]*\).*/\1/p;q}" "$quickstart/commands.sh"
}
updates=$(setting --max-update) rate=$(setting --lr) warmup=$(setting --warmup-updates)
tokens=$(setting --max-tokens) autocast=$(setting --cpu-autocast)

train() { # name, architecture, seed
  local folder=$output/$1
  [ ! -f "$folder/done" ] || return 0
  mkdir -p "$folder"
  echo "training $1: $updates updates"
  fairseq-train "$data" --user-dir fairseq_ffn --arch "$2" --seed "$3" --share-all-embeddings \
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --lr "$rate" \
    --lr-scheduler polynomial_decay --warmup-updates "$warmup" --total-num-update "$updates" \
    --max-update "$updates" --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
    --max-tokens "$tokens" --max-tokens-valid 4096 --num-workers 0 --data-buffer-size 0 \
    --cpu-autocast "$autocast" --save-dir "$folder/checkpoints" --no-epoch-checkpoints \
    --save-interval-updates 592 --keep-interval-updates 1 --log-format json --log-interval 10 \
    >>"$folder/train.log" 2>&1
  touch "$folder/done"
}
train parallel transformer_ffn_tiny_parallel 1
for seed in "${seeds[@]}"; do
  train "baseline_seed$seed" transformer_ffn_tiny_baseline "$seed"
done

model() { echo "$1/checkpoints/checkpoint_last.pt"; }
models=("$(model "$quickstart/baseline")" "$(model "$quickstart/one_wide")"
  "$(model "$output/parallel")")
benchmark=()
for seed in "${seeds[@]}"; do benchmark+=("$(model "$output/baseline_seed$seed")"); done
fairseq-ffn analyze similarity "${models[@]}" --data "$data" --sentences 1000 \
  --seeds "${benchmark[@]}" \
  --output "$output/similarity" | tee "$output/similarity.txt"
fairseq-ffn analyze similarity "${models[@]}" --data "$data" --sentences 1000 --biased --no-plots \
  --seeds "${benchmark[@]}" \
  --output "$output/similarity_biased" | tee "$output/similarity_biased.txt"
fairseq-ffn analyze geometry "${models[@]}" --data "$data" --sentences 300 \
  --output "$output/geometry" | tee "$output/geometry.txt"
fairseq-ffn analyze attention-maps "${models[@]}" --data "$data" --sentences 100 \
  --output "$output/attention_maps" | tee "$output/attention_maps.txt"
python scripts/analysis_tables.py "$output" | tee "$output/tables.md"
