#!/usr/bin/env bash
# Cut the text into pieces and make fairseq's binary data, shard by shard.
#
# One shard lies on disk as text at a time. The first shard has the validation and test sets as well.
# fairseq-train takes one shard an epoch, in turn.
#
# Writes  bin/<shard>/, texts/<subset>/ (the test sets as scoring wants them)
# shellcheck source=scripts/recipes/lib.sh
source "$(dirname "$(readlink -f "$0")")/lib.sh"
begin "$@"

before=$(need 03_vocabulary)
read -r source target < <(sides)
encoding=(--vocabulary "$DATA_WORK/vocabulary" --threads "$WORKERS" ${TAGS:+--tags})
parts=$DATA_WORK/pieces
settings=("$before" "$DIRECTIONS" "$TEMPERATURE" "$VALID" "$VALID_LINES" "$SUBSETS" "$SHARDS" "${TAGS:-}"
  "${TEST_LINES:-}")
if ! stamped 04_binarise "${settings[@]}"; then
  for ((shard = 0; shard < SHARDS; shard++)); do
    name=$(printf %04d "$shard")
    if stamped "04_binarise.$name" "${settings[@]}"; then continue; fi
    run rm -rf "$parts" "$DATA_WORK/bin/$name" "$DATA_WORK/bin/$name.tmp"
    # shellcheck disable=SC2086
    run "$PYTHON" "$RECIPES/encode.py" train --clean "$DATA_WORK/clean" --shard "$shard" \
      --temperature "$TEMPERATURE" --directions $DIRECTIONS --output "$parts/train" "${encoding[@]}"
    sets=()
    if [ "$shard" = 0 ]; then
      # shellcheck disable=SC2086
      run "$PYTHON" "$RECIPES/encode.py" set --text "$DATA_WORK/text" --split valid --name "$VALID" \
        --lines "$VALID_LINES" --directions $DIRECTIONS --output "$parts/valid" "${encoding[@]}"
      tests=''
      for subset in $SUBSETS; do
        folder=$(subset_folder "$subset")
        # shellcheck disable=SC2046
        run "$PYTHON" "$RECIPES/encode.py" set --text "$DATA_WORK/text" --split test \
          --name "${subset%%:*}" ${TEST_LINES:+--lines "$TEST_LINES"} \
          --directions $(subset_directions "$subset") --sides "$source" "$target" \
          --output "$parts/$folder" "${encoding[@]}"
        tests+=${tests:+,}$parts/$folder
        run rm -rf "$DATA_WORK/texts/$folder"
        run mkdir -p "$DATA_WORK/texts"
        run mv "$parts/$folder.texts" "$DATA_WORK/texts/$folder"
      done
      sets=(--validpref "$parts/valid" --testpref "$tests")
    fi
    run fairseq-preprocess --source-lang "$source" --target-lang "$target" \
      --trainpref "$parts/train" ${sets[@]+"${sets[@]}"} --joined-dictionary \
      --srcdict "$DATA_WORK/vocabulary/dict.txt" --workers "$WORKERS" \
      --destdir "$DATA_WORK/bin/$name.tmp"
    run mv "$DATA_WORK/bin/$name.tmp" "$DATA_WORK/bin/$name"
    run rm -rf "$parts"
    stamp "04_binarise.$name" "${settings[@]}"
  done
  stamp 04_binarise "${settings[@]}"
fi
finish
