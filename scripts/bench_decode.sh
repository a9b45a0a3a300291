#!/usr/bin/env bash
# Decoding speed of our models against stock fairseq and CTranslate2 (docs/performance.md).
# bash scripts/bench_decode.sh [--rows NAME,...] [--size big] [--output runs/bench_decode]
# About 17 minutes on 2 cores, on an idle machine; rows that are done are not measured again.
# Needs the peer: pip install ctranslate2
set -euo pipefail
cd "$(dirname "$0")/.."
# two threads that spin for a core that is taken make everything many times slower
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
arguments=("$@")
set -- # setup.sh has arguments of its own
source scripts/setup.sh
exec "$PYTHON" scripts/bench_decode.py ${arguments[@]+"${arguments[@]}"}
