#!/usr/bin/env bash
# Decoding speed of our models against stock fairseq and CTranslate2 (docs/performance.md).
# bash scripts/bench_decode.sh [--rows NAME,...] [--size big] [--output runs/bench_decode]
# About 17 minutes on 2 cores, on an idle machine; rows that are done are not measured again.
set -euo pipefail
cd "$(dirname "$0")/.."
# two threads that spin for a core that is taken make everything many times slower
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
python=.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" scripts/bench_decode.py "$@"
