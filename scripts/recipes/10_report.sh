#!/usr/bin/env bash
# The table of the experiment: quality, significance, speed, size and cost of all models.
#
# Writes  report/<set>/report.{md,csv,tex,html}
# shellcheck source=scripts/recipes/lib.sh
source "$(dirname "$(readlink -f "$0")")/lib.sh"
begin "$@"

for subset in $SUBSETS; do
  folder=$(subset_folder "$subset")
  need "08_score.$folder" >/dev/null
  mapfile -t runs < <(run_folders "$subset")
  plots=()
  if [ -z "$DRY_RUN" ] && ! "$PYTHON" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("matplotlib"))'; then
    plots=(--no-plots)
  fi
  run fairseq-ffn report "${runs[@]}" --output "$WORK/report/$folder" \
    --title "$TITLE${MINI:+, miniature}, $folder" ${plots[@]+"${plots[@]}"}
done
say "all done: $WORK/report"
