#!/usr/bin/env bash
# Sentencepiece model and dictionary, from a sample of the clean text.
#
# --vocabulary joint: one model for all languages, as many rows as the paper names. With
# --vocabulary merged each side has a model of that size and both share one dictionary: two of 32K
# make about 50K rows, which the parameter counts of the paper's EN-DE models imply (docs/wmt.md).
#
# Writes  vocabulary/*.model, vocabulary/dict.txt
# shellcheck source=scripts/recipes/lib.sh
source "$(dirname "$(readlink -f "$0")")/lib.sh"
begin "$@"

before=$(need 02_clean)
# shellcheck disable=SC2206
settings=(--kind "$VOCABULARY" --type "$VOCABULARY_TYPE" --size "$VOCABULARY_SIZE"
  --coverage "$COVERAGE" --lines "$VOCABULARY_LINES" --temperature "$TEMPERATURE"
  ${TAGS:+--tags $LANGUAGES})
if ! stamped 03_vocabulary "$before" "${settings[@]}"; then
  run "$PYTHON" "$RECIPES/vocabulary.py" --clean "$DATA_WORK/clean" \
    --output "$DATA_WORK/vocabulary" --threads "$WORKERS" "${settings[@]}"
  stamp 03_vocabulary "$before" "${settings[@]}"
fi
finish
