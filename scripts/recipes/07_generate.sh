#!/usr/bin/env bash
# Translate the test sets with every model; the set for latency one sentence at a time, timed.
#
# Task translation_latency prints fairseq-generate's translations and measures beside it. The set
# named by LATENCY_SUBSET is decoded by the paper's protocol (p. 4): batch 1, beam 5, 5 runs. Other
# sets are translated once, in large batches.
#
# Writes  results/<set>/<model>/: source.txt, reference.txt, generate.log, latency.json
# shellcheck source=scripts/recipes/lib.sh
source "$(dirname "$(readlink -f "$0")")/lib.sh"
begin "$@"

read -r source target < <(sides)
for name in "${CHOSEN[@]}"; do
  before=$(need "06_average.$name" "$name")
  for subset in $SUBSETS; do
    folder=$(subset_folder "$subset")
    output=$WORK/results/$folder/$name
    how=(--max-tokens "$GENERATE_TOKENS" --latency-runs 1 --latency-warmup 0 --latency-threads 0)
    if [ "$subset" = "$LATENCY_SUBSET" ]; then how=(--batch-size 1 --latency-runs "$LATENCY_RUNS"); fi
    settings=("$before" "$subset" "$BEAM" "${how[*]}")
    if stamped "07_generate.$folder.$name" "${settings[@]}"; then continue; fi
    run mkdir -p "$output"
    run cp -p "$DATA_WORK/texts/$folder/source.txt" "$DATA_WORK/texts/$folder/reference.txt" \
      "$DATA_WORK/texts/$folder/directions.tsv" "$output"
    # a report wants them in the run directory
    run ln -sfn "../../../models/$name/checkpoints" "$output/checkpoints"
    run ln -sfn "../../../models/$name/train.log" "$output/train.log"
    run bash -o pipefail -c "$(quoted fairseq-generate "$DATA_WORK/bin/0000" \
      --user-dir "$ROOT/fairseq_ffn" --task translation_latency \
      --source-lang "$source" --target-lang "$target" \
      --path "$WORK/models/$name/checkpoint_averaged.pt" --gen-subset "$(subset_name "$subset")" \
      --beam "$BEAM" --remove-bpe sentencepiece --required-batch-size-multiple 1 \
      --latency-report "$output/latency.json" "${how[@]}" ${CPU:+--cpu}) >$(quoted "$output/generate.log.tmp")"
    run mv "$output/generate.log.tmp" "$output/generate.log"
    stamp "07_generate.$folder.$name" "${settings[@]}"
  done
done
finish
