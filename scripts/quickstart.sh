#!/usr/bin/env bash
# Quick start: set-up if needed, then three models trained and compared on real text.
#
#   bash scripts/quickstart.sh                    English-German, 20 minutes on 2 cores
#   bash scripts/quickstart.sh --minutes 60       better models
#   bash scripts/quickstart.sh --models baseline,parallel
#   bash scripts/quickstart.sh --data DIR         own text: train, dev and test files of two languages
#   bash scripts/quickstart.sh --help             all options
#
# Results go to runs/quickstart, or with other settings to a folder that is named by them. Every step
# is skipped when it is done and resumed when it was interrupted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
arguments=("$@")
set --
source scripts/setup.sh
exec "$PYTHON" scripts/quickstart/run.py ${arguments[@]+"${arguments[@]}"}
