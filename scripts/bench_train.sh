#!/usr/bin/env bash
# Training against stock fairseq: words/s and loss of every documented way to train, and the memory of
# a wide FFN. The tables of docs/performance_training.md. Needs an idle machine and the quick start's data.
#   bash scripts/bench_train.sh                   everything -> runs/bench_train_*.json
#   bash scripts/bench_train.sh speed|loss|memory
# Threads: BENCH_THREADS (default: 1).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -le 1 ] || { echo "bench_train: error: $2: one part at a time, or none for all" >&2; exit 2; }
case "${1:-}" in
  -h | --help) sed -n '2,6s/^# //p' "$0"; exit 0 ;;
  "" | speed | loss | memory) parts=${1:-speed loss memory} ;;
  *) echo "bench_train: error: $1: use speed, loss or memory" >&2; exit 2 ;;
esac
set --
source scripts/setup.sh
# threads that wait must not spin: with a busy core that is many times slower
export OMP_NUM_THREADS=${BENCH_THREADS:-1} OMP_WAIT_POLICY=PASSIVE CUDA_VISIBLE_DEVICES=
export PYTHONWARNINGS=ignore
# as the quick start (scripts/quickstart/jobs.py): large tensors keep their memory between updates
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=134217728}

bench() { # name, arguments
  local name=$1
  shift
  "$PYTHON" scripts/benchmark_training.py --threads "$OMP_NUM_THREADS" --builds 0 \
    --output "runs/bench_train_$name.json" "$@"
}
for part in $parts; do
  case $part in
    speed)
      bench speed_tiny --sizes tiny --configs baseline --memory-rounds 0 --max-tokens 512 \
        --options default fp32 fp32_fused bf16 bf16_fused --rounds 2 --updates 40
      bench speed_base --sizes base --configs baseline --memory-rounds 0 --max-tokens 1024 \
        --options default fp32 fp32_fused bf16 bf16_fused --rounds 1 --updates 10 \
        --profile-updates 2
      bench speed_base_32k --sizes base --configs baseline --memory-rounds 0 --max-tokens 1024 \
        --options default fp32_fused bf16 bf16_fused --rounds 1 --updates 6 --vocabulary 32000
      bench speed_big --sizes big --configs baseline --memory-rounds 0 --max-tokens 512 \
        --options default fp32_fused bf16_fused --rounds 1 --updates 5
      ;;
    loss)
      bench loss --sizes tiny --configs baseline --memory-rounds 0 --rounds 0 --max-tokens 512 \
        --options default fp32_fused bf16 bf16_fused --loss-updates 150 --loss-seeds 2
      ;;
    memory)
      bench memory --sizes big --configs baseline one_wide --options default unchunked \
        --rounds 0 --memory-rounds 1 --memory-updates 2 --memory-tokens 1024
      ;;
  esac
done
