#!/usr/bin/env bash
# mtdata in an environment of its own: its requirements clash with those of the rest.
#
#   bash scripts/recipes/mtdata.sh [mtdata's arguments]     such as: list-recipe
#
# Other scripts source this file with MTDATA_PYTHON=; afterwards $MTDATA_PYTHON runs mtdata_sets.py.
#
# Variables:
#   FAIRSEQ_FFN_MTDATA_VENV   where it lies (default: .venv-mtdata in the checkout)
#   FAIRSEQ_FFN_MTDATA_PYTHON use this interpreter, which has mtdata, as it is
set -euo pipefail

mtdata_environment() {
  local root requirements venv
  root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
  requirements=$root/requirements/mtdata.txt
  if [ -n "${FAIRSEQ_FFN_MTDATA_PYTHON:-}" ]; then
    MTDATA_PYTHON=$FAIRSEQ_FFN_MTDATA_PYTHON
  else
    venv=${FAIRSEQ_FFN_MTDATA_VENV:-$root/.venv-mtdata}
    MTDATA_PYTHON=$venv/bin/python
    if ! cmp -s "$requirements" "$venv/requirements.txt"; then
      printf '[mtdata] making %s\n' "$venv" >&2
      if ! "${FAIRSEQ_FFN_BASE_PYTHON:-${PYTHON:-python3}}" -m venv --clear "$venv" ||
        ! "$MTDATA_PYTHON" -m pip install --quiet --disable-pip-version-check --no-input \
          -r "$requirements" 2> >(grep -v '^WARNING: ' >&2); then
        printf 'mtdata: error: pip install -r %s failed (see above)\n' "$requirements" >&2
        return 1
      fi
      cp "$requirements" "$venv/requirements.txt"
    fi
  fi
  export MTDATA_PYTHON
}

mtdata_environment
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  MTDATA_RECIPES=${MTDATA_RECIPES:-$(dirname "$(readlink -f "$0")")} \
    exec "$MTDATA_PYTHON" -m mtdata "$@"
fi
