#!/usr/bin/env bash
# Train the models of the table in config.sh, one after the other, with fairseq-train.
#
# The batch of an update stays as configured for any number of GPUs: --update-freq makes up for what
# one step on all of them lacks. A training goes on from its last checkpoint, which is written in the
# middle of an epoch too (SAVE_EVERY updates). With --gpus N several processes train together
# (torchrun); if one of them dies the others are stopped, and all go on from the last checkpoint, as
# long as there is progress. Several machines: the same command on each, with --nodes, --node-rank
# and --rendezvous, or scripts/recipes/slurm.sbatch.
#
# Writes  models/<model>/checkpoints/, models/<model>/train.log
# shellcheck source=scripts/recipes/lib.sh
source "$(dirname "$(readlink -f "$0")")/lib.sh"
begin "$@"

before=$(need 04_binarise)
read -r source target < <(sides)
# shellcheck disable=SC2153
precision=$PRECISION
if [ -z "$DRY_RUN" ] && ! on_gpu; then
  CPU=1
  if [ "$precision" != fp32 ]; then
    say "no GPU: training in fp32 instead of $precision"
    precision=fp32
  fi
fi
if [ -z "$GPUS" ]; then
  GPUS=1
  if [ -z "$DRY_RUN" ] && [ -z "$CPU" ]; then
    GPUS=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')
  fi
fi
[ "$UPDATES" -ge $((AVERAGE * SAVE_EVERY)) ] ||
  die "$UPDATES updates are too few: 06_average wants $AVERAGE checkpoints, one every $SAVE_EVERY"
processes=$((GPUS * NODES))
# as many steps an update as it takes, then all steps of the same size
update_freq=$(((BATCH_TOKENS + GPU_TOKENS * processes - 1) / (GPU_TOKENS * processes)))
tokens=$((BATCH_TOKENS / (update_freq * processes)))
say "$processes process(es), $tokens tokens each, --update-freq $update_freq: $((tokens * processes * update_freq)) tokens an update"

train_command() {
  local name=$1
  command=("$(shards)" --user-dir "$ROOT/fairseq_ffn" --source-lang "$source" --target-lang "$target"
    --arch "${ARCH[$name]}" --share-all-embeddings --dropout "$DROPOUT"
    --optimizer adam --adam-betas "$ADAM_BETAS" --weight-decay "$WEIGHT_DECAY" --clip-norm "$CLIP_NORM"
    --lr "$LEARNING_RATE" --lr-scheduler inverse_sqrt --warmup-updates "$WARMUP"
    --warmup-init-lr 1e-7 --max-update "$UPDATES"
    --criterion label_smoothed_cross_entropy --label-smoothing "$LABEL_SMOOTHING" --seed "$SEED"
    --skip-invalid-size-inputs-valid-test --log-format simple)
  # read splits the flags at spaces; none of them holds one
  read -r -a flags <<<"${FLAGS[$name]}"
  command+=(${flags[@]+"${flags[@]}"})
}

train() {
  local name=$1 folder=$WORK/models/$1 command flags start reached settings launch
  train_command "$name"
  settings=("$before" "${command[*]:1}" "$BATCH_TOKENS" "$AVERAGE" "$SAVE_EVERY")
  if stamped "05_train.$name" "${settings[@]}"; then return; fi
  if [ -z "$DRY_RUN" ]; then
    mkdir -p "$folder"
    [ -s "$folder/settings" ] || stamp_of "${settings[@]}" >"$folder/settings"
    [ "$(cat "$folder/settings")" = "$(stamp_of "${settings[@]}")" ] ||
      die "$folder holds a training with other settings or data; choose another --work, or delete that folder"
  fi
  command+=(--max-tokens "$tokens" --update-freq "$update_freq" --save-dir "$folder/checkpoints"
    --save-interval-updates "$SAVE_EVERY" --keep-interval-updates "$AVERAGE" --no-epoch-checkpoints
    --log-interval "$LOG_EVERY" ${CPU:+--cpu} ${DATA_BUFFER:+--data-buffer-size "$DATA_BUFFER"}
    ${DATA_BUFFER:+--num-workers 0})
  if [ "$precision" != fp32 ]; then command+=("--$precision"); fi
  launch=(fairseq-train)
  if [ "$processes" -gt 1 ]; then
    if [ "$NODES" -gt 1 ]; then
      launch=(torchrun --nnodes "$NODES" --node-rank "$NODE_RANK" --rdzv-backend c10d
        --rdzv-endpoint "$RENDEZVOUS" --rdzv-id "$EXPERIMENT.$name")
    else
      launch=(torchrun --standalone)
    fi
    # legacy_ddp: a shared FFN's gradient is ready once, not once per layer
    launch+=(--nproc-per-node "$GPUS" --no-python bash "$RECIPES/worker.sh")
    # every process reads the checkpoint: what fairseq would send them torch 2.6 doesn't unpack
    command+=(--ddp-backend "$DDP_BACKEND" --load-checkpoint-on-all-dp-ranks)
    if [ -n "$CPU" ]; then command+=(--distributed-backend gloo); fi
  fi
  if [ -n "$DRY_RUN" ]; then
    run "${launch[@]}" "${command[@]}"
    return
  fi
  while :; do
    start=$(reached_update "$folder")
    if [ "$start" -ge "$UPDATES" ]; then break; fi
    if [ "$start" -gt 0 ]; then say "$name goes on from update $start of $UPDATES"; else say "$name"; fi
    printf '$ %s\n' "$(quoted "${launch[@]}" "${command[@]}")" >>"$LOG"
    if OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} "${launch[@]}" "${command[@]}" 2>&1 |
      tee -a "$folder/train.log" >&2; then
      reached=$(reached_update "$folder")
      [ "$reached" -ge "$UPDATES" ] ||
        die "$name stopped at update $reached of $UPDATES without an error; see $folder/train.log"
      break
    fi
    reached=$(reached_update "$folder")
    [ "$processes" -gt 1 ] && [ "$reached" -gt "$start" ] ||
      die "training of $name failed (see above, or $folder/train.log); the same command goes on from update $reached"
    say "a process of $name ended; all go on from update $reached"
  done
  stamp "05_train.$name" "${settings[@]}"
}

reached_update() {
  [ -e "$1/checkpoints/checkpoint_last.pt" ] || {
    printf 0
    return
  }
  "$PYTHON" "$RECIPES/resume.py" "$1/checkpoints" 2> >(tee -a "$LOG" >&2) || exit 1
}

for name in "${CHOSEN[@]}"; do train "$name"; done
finish
