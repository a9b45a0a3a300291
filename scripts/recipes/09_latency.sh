#!/usr/bin/env bash
# Compare the models' speed: all in one process, in turn on the same sentences.
#
# This is what ratios in the report come from; 07_generate's figures are of one model after the other
# on a machine that may drift.
#
# Writes  results/<set>/latency_comparison.json
# shellcheck source=scripts/recipes/lib.sh
source "$(dirname "$(readlink -f "$0")")/lib.sh"
begin "$@"

read -r source target < <(sides)
folder=$(subset_folder "$LATENCY_SUBSET")
settings=("$LATENCY_SENTENCES" "$LATENCY_RUNS" "$BEAM")
models=()
for name in "${CHOSEN[@]}"; do
  settings+=("$name" "$(need "06_average.$name" "$name")")
  models+=("$WORK/models/$name/checkpoint_averaged.pt")
done
if ! stamped 09_latency "${settings[@]}"; then
  run mkdir -p "$WORK/results/$folder"
  run fairseq-ffn compare-latency "${models[@]}" --data "$DATA_WORK/bin/0000" \
    --source-lang "$source" --target-lang "$target" --gen-subset "$(subset_name "$LATENCY_SUBSET")" \
    --sentences "$LATENCY_SENTENCES" --rounds "$LATENCY_RUNS" --beam "$BEAM" ${CPU:+--cpu} \
    --output "$WORK/results/$folder/latency_comparison.json"
  stamp 09_latency "${settings[@]}"
fi
finish
