# shellcheck shell=bash disable=SC2034
# Ten languages, 90 directions: the Multilingual Big rows of Table 6.
# "paper": Pires et al. 2023, arXiv 2309.01826 v2, with page. "ours": the paper doesn't say.
# shellcheck source=scripts/recipes/defaults.sh
source "$RECIPES/defaults.sh"

TITLE='Multilingual'
LANGUAGES='de en es fr it ja ko pt sw zh'   # paper p. 3

# All ordered pairs. A source begins with <2xx>, the language to translate into, and all directions
# are one set for fairseq's task translation: so translation_latency and compare-latency take these
# models like any other. (translation_multi_simple_epoch has tasks and decoding of its own.)
all_directions() {
  local source target
  DIRECTIONS=''
  for source in $LANGUAGES; do
    for target in $LANGUAGES; do
      if [ "$source" != "$target" ]; then DIRECTIONS+=${DIRECTIONS:+ }$source-$target; fi
    done
  done
}
all_directions
TAGS=1                     # paper's set-up is Pires et al. 2023b (arXiv 2305.02665); form ours
TEMPERATURE=5              # ours: the usual value since Arivazhagan et al. 2019; paper: not said

# Training: the paper takes the set-up of arXiv 2305.02665 and repeats no sizes (p. 3). Ours: CCMatrix
# for every pair, OPUS-100 where it has English, Tatoeba, by mtdata's names. FLORES-101 for testing
# (paper, Table 6); its dev part for validation is ours. Chinese is zho_simpl in the FLORES-101
# archive, as openlanguagedata's data card of cmn_Hans says; mtdata 0.5.1 has FLORES-200's zho_Hans.
DATA="
valid    flores101-dev     ${LANGUAGES// /-}  text  https://dl.fbaipublicfiles.com/flores101/dataset/flores101_dataset.tar.gz#flores101_dataset/dev/{deu,eng,spa,fra,ita,jpn,kor,por,swh,zho_simpl}.dev
test     flores101         ${LANGUAGES// /-}  text  https://dl.fbaipublicfiles.com/flores101/dataset/flores101_dataset.tar.gz#flores101_dataset/devtest/{deu,eng,spa,fra,ita,jpn,kor,por,swh,zho_simpl}.devtest
"
# rows NAME MTDATA-NAME PAIRS: one row of the table per pair
rows() {
  local pair
  for pair in $3; do
    DATA+="train $1-$pair $pair mtdata $2-$(code "${pair%-*}")-$(code "${pair#*-}")"$'\n'
  done
}
code() {
  case $1 in
    de) printf deu ;; en) printf eng ;; es) printf spa ;; fr) printf fra ;; it) printf ita ;;
    ja) printf jpn ;; ko) printf kor ;; pt) printf por ;; sw) printf swa ;; zh) printf zho ;;
  esac
}
PAIRS=''
for one in $LANGUAGES; do
  for other in ${LANGUAGES##*"$one"}; do PAIRS+=${PAIRS:+ }$one-$other; done
done
rows ccmatrix OPUS-ccmatrix-v1 "$PAIRS"
rows opus100 OPUS-opus100_train-1 'de-en en-es en-fr en-it en-ja en-ko en-pt en-zh'
rows tatoeba OPUS-tatoeba-v20220303 "$(tr " " "\n" <<<"$PAIRS" | grep -vE "sw|zh" | paste -sd " ")"
VALID=flores101-dev
VALID_LINES=50             # ours: of each direction
SUBSETS='flores101 flores101:de-en'
LATENCY_SUBSET=flores101:de-en   # paper p. 4: speed is of German-English
SHARDS=64                  # ours

# sacreBLEU's sentencepiece model for spBLEU, tok:flores101 (paper p. 4)
SPBLEU=flores101
SPBLEU_FILE=https://dl.fbaipublicfiles.com/fairseq/models/flores/sacrebleu_tokenizer_spm.model
FILES=$SPBLEU_FILE

VOCABULARY_SIZE=250000     # paper p. 3
VOCABULARY_TYPE=unigram    # ours
COVERAGE=0.9995            # paper p. 3
VOCABULARY_LINES=5000000   # ours: in some 23 GB

UPDATES=150000             # paper p. 4
DROPOUT=0                  # paper p. 4

MODELS='
# name                    architecture                             flags
# Table 6, Multilingual Big
baseline                  transformer_ffn_big_baseline
shared_enc_no_dec         transformer_ffn_big_shared_enc_no_dec
one_wide                  transformer_ffn_big_one_wide

# Controls that the paper lacks, as for WMT22
no_dec_wide               transformer_ffn_big_no_dec               --encoder-ffn-embed-dim 8192
one_wide_same_cost        transformer_ffn_big_shared_enc_no_dec    --encoder-ffn-embed-dim 8192
'

# four languages: Multi30K as training text, FLORES for testing, under the real names
mini() {
  mini_sizes
  LANGUAGES='cs de en fr'
  all_directions
  DATA='
train    multi30k          cs-de-en-fr  text  https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/train.{cs,de,en,fr}.gz
valid    multi30k          cs-de-en-fr  text  https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/val.{cs,de,en,fr}.gz
test     flores101         cs-de-en-fr  text  https://dl.fbaipublicfiles.com/flores101/dataset/flores101_dataset.tar.gz#flores101_dataset/devtest/{ces,deu,eng,fra}.devtest
'
  VALID=multi30k
  VALID_LINES=5
  TEST_LINES=4
  SHARDS=1
  VOCABULARY_SIZE=2000
  COVERAGE=1.0
  MINI_MODELS='baseline one_wide'
  MINI_MIRROR=multilingual
}
