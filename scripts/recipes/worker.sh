#!/usr/bin/env bash
# One process of a training on several, started by torchrun: fairseq-train with its rank.
#
# fairseq can read torchrun's variables itself, but divides by the number of GPUs; so it is told.
set -euo pipefail
exec fairseq-train "$@" --distributed-init-method env:// --distributed-no-spawn \
  --distributed-world-size "$WORLD_SIZE" --distributed-rank "$RANK" --device-id "$LOCAL_RANK"
