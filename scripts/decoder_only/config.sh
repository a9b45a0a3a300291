# shellcheck shell=bash disable=SC2034
# A decoder-only prefix language model on WMT22 English-German: the decoder-only rows of Table 6.
# Data, text and binary files are those of wmt22_en_de and shared with it; everything that isn't set
# here is as there.
# shellcheck source=scripts/wmt22_en_de/config.sh
source "$ROOT/scripts/wmt22_en_de/config.sh"

TITLE='WMT22 English-German, decoder-only'
if [ -z "$MINI" ] && [ -z "$WORK" ]; then DATA_WORK=$ROOT/runs/wmt22_en_de; fi

MODELS='
# name                    architecture                                flags
# Table 6, Decoder-only: 12 layers; the source is read in both directions, the target causally (p. 4)
baseline                  transformer_ffn_decoder_only_big_baseline
shared_dec                transformer_ffn_decoder_only_big_shared_dec
shared_dec_wide           transformer_ffn_decoder_only_big_shared_dec_wide

# Ours: attention and FFN in parallel
parallel                  transformer_ffn_decoder_only_big_parallel
'

# the shipped corpus
mini() {
  mini_sizes
  DATA='
train    tatoeba           en-de      text    data-bin/tatoeba_en_de/raw/train.{en,de}.gz
valid    tatoeba           en-de      text    data-bin/tatoeba_en_de/raw/dev.{en,de}
test     tatoeba           en-de      text    data-bin/tatoeba_en_de/raw/test.{en,de}
'
  VALID=tatoeba
  SUBSETS=tatoeba
  LATENCY_SUBSET=tatoeba
  SHARDS=1
  VOCABULARY_SIZE=2000
  PART_LINES=100000
  BUCKET_LINES=100000
  MINI_MODELS='baseline shared_dec_wide'
}
