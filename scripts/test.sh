#!/usr/bin/env bash
# Set-up if needed, then style and all tests. Further arguments go to pytest:
#   bash scripts/test.sh                      everything
#   bash scripts/test.sh tests/test_layouts.py -k cycle
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in -h | --help) sed -n '2,4s/^# //p' "$0"; exit 0 ;; esac
pytest_arguments=("$@")
set -- --test
source scripts/setup.sh
set -- ${pytest_arguments[@]+"${pytest_arguments[@]}"}

# one thread a process: two with a core busy can be 20 times slower
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE PYTHONDONTWRITEBYTECODE=1
if [ $# -eq 0 ]; then
  "$PYTHON" -m ruff check . && "$PYTHON" -m ruff format --check .
fi
# a file stays on one process: its fixtures (a whole quick start) are made once
exec "$PYTHON" -m pytest -n "${FAIRSEQ_FFN_TEST_PROCESSES:-2}" --dist loadfile "$@"
