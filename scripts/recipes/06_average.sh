#!/usr/bin/env bash
# Average the last checkpoints of every model into one for decoding.
#
# The paper doesn't say whether it averages; the number is AVERAGE in config.sh, ours.
#
# Writes  models/<model>/checkpoint_averaged.pt
# shellcheck source=scripts/recipes/lib.sh
source "$(dirname "$(readlink -f "$0")")/lib.sh"
begin "$@"

for name in "${CHOSEN[@]}"; do
  before=$(need "05_train.$name" "$name")
  if stamped "06_average.$name" "$before" "$AVERAGE"; then continue; fi
  run fairseq-ffn average --inputs "$WORK/models/$name/checkpoints" \
    --num-update-checkpoints "$AVERAGE" --output "$WORK/models/$name/checkpoint_averaged.pt"
  stamp "06_average.$name" "$before" "$AVERAGE"
done
finish
