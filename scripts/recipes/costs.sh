#!/usr/bin/env bash
# What the models of an experiment cost to train: multiply-adds, activation memory, GPU hours.
#
# Multiply-adds are exact, memory and hours are estimates by the formulas in costs.py; nothing was
# measured on a GPU.
# shellcheck source=scripts/recipes/lib.sh
source "$(dirname "$(readlink -f "$0")")/lib.sh"
begin "$@"

chosen=''
for name in "${CHOSEN[@]}"; do chosen+="$name ${ARCH[$name]} ${FLAGS[$name]}"$'\n'; done
command=("$PYTHON" "$RECIPES/costs.py" --table "$chosen" --updates "$UPDATES"
  --batch-tokens "$BATCH_TOKENS" --vocabulary "$((VOCABULARY_SIZE + 8))")
if [ -n "$DRY_RUN" ]; then run "${command[@]}"; else "${command[@]}"; fi # a table is for stdout
