#!/usr/bin/env bash
# Score the translations with sacreBLEU: BLEU, chrF and significance against the first model.
#
# COMET as well (wmt20-comet-da, the paper's) if unbabel-comet is installed. With SPBLEU in config.sh
# also BLEU over the pieces of sacreBLEU's flores101 model, of each direction and of all together.
#
# Writes  results/<set>/<model>/scores.json, results/<set>/directions.{tsv,json}
# shellcheck source=scripts/recipes/lib.sh
source "$(dirname "$(readlink -f "$0")")/lib.sh"
begin "$@"

scoring=()
if [ -n "${SPBLEU:-}" ]; then
  scoring+=(--spbleu-tokenizer "$SPBLEU")
  # 01_download has sacreBLEU's sentencepiece model; without it sacreBLEU would download it itself
  export SACREBLEU=$DATA_WORK/sacrebleu
  run mkdir -p "$SACREBLEU/models"
  run cp "$DATA_WORK/raw/${SPBLEU_FILE#*://}" "$SACREBLEU/models/"
fi
if [ -z "$DRY_RUN" ] && "$PYTHON" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("comet"))'; then
  scoring+=(--comet wmt20-comet-da)
fi
for subset in $SUBSETS; do
  folder=$(subset_folder "$subset")
  settings=("$subset" "${scoring[@]+"${scoring[@]}"}")
  for name in "${CHOSEN[@]}"; do settings+=("$(need "07_generate.$folder.$name" "$name")"); done
  if stamped "08_score.$folder" "${settings[@]}"; then continue; fi
  mapfile -t runs < <(run_folders "$subset")
  baseline=()
  if [ ${#runs[@]} -gt 1 ]; then baseline=(--baseline "${runs[0]}"); fi
  run fairseq-ffn score "${runs[@]}" ${baseline[@]+"${baseline[@]}"} ${scoring[@]+"${scoring[@]}"}
  if [[ $(subset_directions "$subset") == *' '* ]]; then
    run "$PYTHON" "$RECIPES/score_directions.py" "${runs[@]}" --tokenizer "$SPBLEU" \
      --output "$WORK/results/$folder/directions"
  fi
  stamp "08_score.$folder" "${settings[@]}"
done
finish
