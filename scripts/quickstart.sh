#!/usr/bin/env bash
# Quick start: set-up if needed, then three models trained and compared on real text.
#
#   bash scripts/quickstart.sh                    English-German, 20 minutes on 2 cores
#   bash scripts/quickstart.sh --minutes 60       better models
#   bash scripts/quickstart.sh --models baseline,parallel
#   bash scripts/quickstart.sh --data DIR         own text: train, dev and test files of two languages
#   bash scripts/quickstart.sh --help             all options (after set-up; before it, this text)
#
# Results go to runs/quickstart, or with other settings to a folder that is named by them. Every step
# is skipped when it is done and resumed when it was interrupted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in *" -h "* | *" --help "*)
  # nobody wants to wait minutes for a help text
  if [ -z "${FAIRSEQ_FFN_PYTHON:-}" ] && [ ! -e "${FAIRSEQ_FFN_VENV:-.venv}/fairseq-ffn-setup" ]; then
    sed -n '2,11s/^# \{0,1\}//p' scripts/quickstart.sh
    exit 0
  fi ;;
esac
arguments=("$@")
set --
source scripts/setup.sh
exec "$PYTHON" scripts/quickstart/run.py ${arguments[@]+"${arguments[@]}"}
