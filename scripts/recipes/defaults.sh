# shellcheck shell=bash disable=SC2034
# Values that all experiments have in common; each config.sh sources this, then sets its own.
# "paper": Pires et al. 2023, arXiv 2309.01826 v2, with page. "ours": the paper doesn't say.

# ---- training
LEARNING_RATE=7e-4         # paper p. 4, of Adam
WARMUP=4000                # paper p. 4, inverse square root
ADAM_BETAS='(0.9, 0.98)'   # ours: Vaswani et al. 2017, and fairseq's translation examples
WEIGHT_DECAY=0             # ours
CLIP_NORM=0                # ours: fairseq's default, no clipping
LABEL_SMOOTHING=0.1        # ours: Vaswani et al. 2017
PRECISION=fp16             # paper p. 4; bf16 is the other choice
BATCH_TOKENS=458752        # ours: target or source tokens of an update, 3,584 x 128 as in fairseq's
                           # example of large-batch training (Ott et al. 2018)
MAX_TOKENS=3584            # ours: of one GPU at once; less for the wide models (docs/wmt.md)
SEED=1                     # ours; Table 5's benchmark needs 2 and 3 as well
SAVE_EVERY=1000            # ours: updates between checkpoints
AVERAGE=10                 # ours: checkpoints that are averaged, and kept
DDP_BACKEND=legacy_ddp     # ours: takes every layout; fully_sharded only where no FFN is shared
LOG_EVERY=100              # ours
DATA_BUFFER=''             # fairseq's default

# ---- text
SHARDS=1
PART_LINES=5000000         # ours: pairs of a file between the steps
BUCKET_LINES=1000000       # ours: decides the memory of 02_clean
MAX_WORDS=250              # ours: fairseq's clean-corpus scripts take the same
MAX_BYTES=3000             # ours
MAX_RATIO=3                # ours
VOCABULARY_KIND=joint
VOCABULARY_LINES=2000000   # ours: pairs that sentencepiece learns from, in some 9 GB (docs/wmt.md)
TEMPERATURE=1              # as the data is
TAGS=''
VALID_LINES=100000         # ours: all

# ---- translating
BEAM=5                     # paper p. 4 for latency; for BLEU ours
LATENCY_RUNS=5             # paper p. 4
LATENCY_SENTENCES=200      # ours: of compare-latency, spread over the set
GENERATE_TOKENS=8192       # ours: of sets that aren't timed
TEST_LINES=''              # all

# A small model in place of one of the table: the same layouts, tiny's width. d_ff, 256 in tiny, has
# the same ratio to the baseline's as in the table.
mini_model() {
  local arch=$1 words word size=${1#transformer_ffn_} factor=16 layers='--encoder-layers 6 --decoder-layers 6'
  size=${size%%_*}
  if [[ $arch == *_decoder_only_* ]]; then
    arch=${arch/_only_big_/_only_tiny_} size=tiny layers=''
  fi
  case $size in
    base) factor=8 ;;
    deep) layers='--encoder-layers 12 --decoder-layers 2' ;;
  esac
  printf '%s %s' "${arch/ffn_${size}/ffn_tiny}" "$layers"
  read -r -a words <<<"$2"
  for word in ${words[@]+"${words[@]}"}; do
    if [[ $word =~ ^[0-9]{4,}$ ]]; then word=$((word / factor)); fi
    printf ' %s' "$word"
  done
  printf '\n'
}

# What --mini shrinks everywhere: sizes and data, nothing else.
mini_sizes() {
  UPDATES=${ASKED_UPDATES:-12}
  WARMUP=$(((UPDATES + 2) / 3))     # at least 1: the learning rate is divided by it
  BATCH_TOKENS=1024
  MAX_TOKENS=512
  SAVE_EVERY=$WARMUP
  AVERAGE=2
  LOG_EVERY=$(((UPDATES + 99) / 100))
  DATA_BUFFER=0            # the thread that reads ahead can abort a process that ends soon
  VOCABULARY_LINES=100000
  LATENCY_RUNS=2
  LATENCY_SENTENCES=20
  TEST_LINES=30
  VALID_LINES=50
  PART_LINES=5000
  BUCKET_LINES=5000
}
