#!/usr/bin/env bash
# Clean the training text: normalise, drop bad pairs and duplicates, shuffle into shards.
#
# Empty, over-long and badly matched pairs go, pairs with a sentence of a validation or test set,
# with --language-id pairs in other languages, and duplicates. A table says how many each rule
# removed. Memory doesn't grow with the text. The paper doesn't say how its text was cleaned: every
# limit is ours, in config.sh.
#
# Writes  clean/<pair>/*.tsv.gz, clean/counts.json
# shellcheck source=scripts/recipes/lib.sh
source "$(dirname "$(readlink -f "$0")")/lib.sh"
begin "$@"

before=$(need 01_download)
rules=(--shards "$SHARDS" --max-words "$MAX_WORDS" --max-bytes "$MAX_BYTES" --max-ratio "$MAX_RATIO"
  --bucket-lines "$BUCKET_LINES" ${LANGUAGE_ID:+--language-id})
if ! stamped 02_clean "$before" "${rules[@]}"; then
  run "$PYTHON" "$RECIPES/clean.py" --text "$DATA_WORK/text" --output "$DATA_WORK/clean" \
    --workers "$WORKERS" "${rules[@]}"
  stamp 02_clean "$before" "${rules[@]}"
fi
finish
