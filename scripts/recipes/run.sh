#!/usr/bin/env bash
# The whole experiment: all steps in order. What is done is skipped; what was interrupted goes on.
# shellcheck source=scripts/recipes/lib.sh
source "$(dirname "$(readlink -f "$0")")/lib.sh"
begin "$@"

for step in "${STEPS[@]}"; do
  bash "$EXPERIMENT_DIR/$step.sh" "$@"
done
