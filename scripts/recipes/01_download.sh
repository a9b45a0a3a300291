#!/usr/bin/env bash
# Download the data and turn it into text.
#
# The data table in config.sh says what there is: data sets that mtdata knows, archives and plain
# files, each with its address. A download that broke off goes on where it was. Files whose publisher
# states a checksum (checksums.txt beside config.sh) have to have it; for the others the checksum of
# the first download is written to raw/checksums.sha256, and later copies have to have that.
#
# Writes  raw/<host>/<path>                       the files as they are
#         text/train/<set>/<pair>/*.tsv.gz        training text, pairs with a tab between them
#         text/{valid,test}/<set>.<language>      sets for validation and testing
# shellcheck source=scripts/recipes/lib.sh
source "$(dirname "$(readlink -f "$0")")/lib.sh"
begin "$@"

settings=("$DATA" "${FILES:-}" "$PART_LINES")
if ! stamped 01_download "${settings[@]}"; then
  known=$EXPERIMENT_DIR/checksums.txt
  if [ -n "$MINI" ]; then
    known=$DATA_WORK/no_sums # small files can't have the sums of the real ones
    if [ -z "$RAW_DIR$MIRROR" ] && [ -n "${MINI_MIRROR:-}" ]; then
      RAW_DIR=$DATA_WORK/mirror
      run "$PYTHON" "$RECIPES/mini_mirror.py" "$MINI_MIRROR" --output "$RAW_DIR"
    fi
  fi
  fetch=("$PYTHON" "$RECIPES/fetch.py" --folder "$DATA_WORK/raw" --known "$known"
    ${RAW_DIR:+--raw-dir "$RAW_DIR"} ${MIRROR:+--mirror "$MIRROR"})
  ids=()
  sets=()
  addresses=()
  while read -r _ name languages kind where <&3; do
    if [ "$kind" = mtdata ]; then
      ids+=("$where")
      sets+=("$name:$languages:$where")
    else
      addresses+=("$where")
    fi
  done 3< <(data_rows)
  if [ ${#ids[@]} -gt 0 ]; then
    # its index, which takes ten seconds to make
    export MTDATA=${MTDATA:-$DATA_WORK/mtdata}
    if [ -z "$DRY_RUN" ]; then
      mkdir -p "$MTDATA"
      # shellcheck source=scripts/recipes/mtdata.sh
      source "$RECIPES/mtdata.sh"
      found=$("$MTDATA_PYTHON" "$RECIPES/mtdata_sets.py" urls "${ids[@]}" 2> >(tee -a "$LOG" >&2)) ||
        failed mtdata
      mapfile -t urls <<<"$found"
      addresses+=("${urls[@]}")
    else
      MTDATA_PYTHON=python
      run "$MTDATA_PYTHON" "$RECIPES/mtdata_sets.py" urls "${ids[@]}"
      addresses+=('<those addresses>')
    fi
  fi
  # shellcheck disable=SC2086
  run "${fetch[@]}" "${addresses[@]}" ${FILES:-}
  if [ ${#sets[@]} -gt 0 ]; then
    run "$MTDATA_PYTHON" "$RECIPES/mtdata_sets.py" text --folder "$DATA_WORK/raw" \
      --output "$DATA_WORK/text/train" --part-lines "$PART_LINES" "${sets[@]}"
  fi
  while read -r split name languages kind where <&3; do
    if [ "$kind" != mtdata ]; then
      run "$PYTHON" "$RECIPES/to_text.py" --folder "$DATA_WORK/raw" --kind "$kind" \
        --split "$split" --languages "$languages" --output "$DATA_WORK/text/$split/$name" \
        --part-lines "$PART_LINES" "$where"
    fi
  done 3< <(data_rows)
  stamp 01_download "${settings[@]}"
fi
finish
