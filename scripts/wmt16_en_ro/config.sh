# shellcheck shell=bash disable=SC2034
# WMT16 English to Romanian: the Base rows of Table 6.
# "paper": Pires et al. 2023, arXiv 2309.01826 v2, with page. "ours": the paper doesn't say.
# shellcheck source=scripts/recipes/defaults.sh
source "$RECIPES/defaults.sh"

TITLE='WMT16 English-Romanian'
LANGUAGES='en ro'
DIRECTIONS='en-ro'

# Training: WMT16's parallel data, Europarl v8 and SETIMES2; 610K pairs (paper p. 3). Validation is
# ours: WMT16's own set. Romanian is normalised, and its diacritics stay (paper p. 4; normalise.py).
DATA='
# split  name              languages  kind    where
train    europarl-v8       en-ro      text    https://data.statmt.org/wmt16/translation-task/training-parallel-ep-v8.tgz#training-parallel-ep-v8/europarl-v8.ro-en.{en,ro}
train    setimes2          en-ro      text    https://object.pouta.csc.fi/OPUS-SETIMES/v2/moses/en-ro.txt.zip#SETIMES.en-ro.{en,ro}
valid    newsdev2016       en-ro      sgm     https://data.statmt.org/wmt16/translation-task/dev.tgz#dev/newsdev2016-enro-{src.en,ref.ro}.sgm
test     newstest2016      en-ro      sgm     https://data.statmt.org/wmt16/translation-task/test.tgz#test/newstest2016-enro-{src.en,ref.ro}.sgm
'
VALID=newsdev2016
SUBSETS=newstest2016
LATENCY_SUBSET=newstest2016

VOCABULARY_SIZE=40000      # paper p. 4: 40,000 merges
VOCABULARY_TYPE=bpe        # paper p. 4; by sentencepiece, so without a tokeniser before it: ours
COVERAGE=1.0               # ours, as for WMT22

UPDATES=80000              # paper p. 4
DROPOUT=0.3                # paper p. 4
BATCH_TOKENS=65536         # ours: 610K pairs are few; an epoch is about 300 updates

MODELS='
# name                    architecture                              flags
# Table 6, Base English-Romanian
baseline                  transformer_ffn_base_baseline
shared_enc_no_dec         transformer_ffn_base_shared_enc_no_dec
one_wide                  transformer_ffn_base_one_wide

# Controls that the paper lacks, as for WMT22
no_dec_wide               transformer_ffn_base_no_dec               --encoder-ffn-embed-dim 4096
one_wide_same_cost        transformer_ffn_base_shared_enc_no_dec    --encoder-ffn-embed-dim 4096
parallel                  transformer_ffn_base_parallel
one_wide_parallel         transformer_ffn_base_one_wide_parallel
'

# NTREX and FLORES-200 in place of 610K pairs, under the real names
mini() {
  mini_sizes
  VOCABULARY_SIZE=1500
  MINI_MODELS='baseline one_wide'
  MINI_MIRROR=wmt16_en_ro
}
