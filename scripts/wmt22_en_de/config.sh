# shellcheck shell=bash disable=SC2034
# WMT22 English to German: Tables 2, 3, 4, 7, 8 and, of Table 6, Base and Deep Encoder Shallow Decoder.
# "paper": Pires et al. 2023, arXiv 2309.01826 v2, with page. "ours": the paper doesn't say.
# shellcheck source=scripts/recipes/defaults.sh
source "$RECIPES/defaults.sh"

TITLE='WMT22 English-German'
LANGUAGES='en de'
DIRECTIONS='en-de'

# Training: the 13 sets of WMT22's own recipe wmt22-deen for mtdata (paper p. 4: "the official mtdata
# scripts"); together 296M pairs (paper p. 3). Validation is ours: the paper names no set.
# Testing: WMT22's general test, first reference (paper p. 4).
DATA='
# split  name              languages  kind    where
train    europarl-10       en-de      mtdata  Statmt-europarl-10-deu-eng
train    paracrawl-9       en-de      mtdata  ParaCrawl-paracrawl-9-eng-deu
train    commoncrawl       en-de      mtdata  Statmt-commoncrawl_wmt13-1-deu-eng
train    news-commentary-16 en-de     mtdata  Statmt-news_commentary-16-deu-eng
train    wikititles-3      en-de      mtdata  Statmt-wikititles-3-deu-eng
train    wikimatrix-1      en-de      mtdata  Facebook-wikimatrix-1-deu-eng
train    eesc-2017         en-de      mtdata  Tilde-eesc-2017-deu-eng
train    ema-2016          en-de      mtdata  Tilde-ema-2016-deu-eng
train    airbaltic-1       en-de      mtdata  Tilde-airbaltic-1-deu-eng
train    czechtourism-1    en-de      mtdata  Tilde-czechtourism-1-deu-eng
train    ecb-2017          en-de      mtdata  Tilde-ecb-2017-deu-eng
train    rapid-2016        en-de      mtdata  Tilde-rapid-2016-deu-eng
train    rapid-2019        en-de      mtdata  Tilde-rapid-2019-deu-eng
valid    newstest2020      en-de      sgm     https://data.statmt.org/wmt20/translation-task/test.tgz#sgm/newstest2020-ende-{src.en,ref.de}.sgm
test     generaltest2022   en-de      text    https://github.com/wmt-conference/wmt22-news-systems/archive/refs/tags/v1.1.tar.gz#wmt22-news-systems-1.1/txt/{sources/generaltest2022.en-de.src.en,references/generaltest2022.en-de.ref.A.de}
'
VALID=newstest2020
SUBSETS=generaltest2022
LATENCY_SUBSET=generaltest2022
SHARDS=16                  # ours: 18.5M pairs each

VOCABULARY_SIZE=32000      # paper p. 4
VOCABULARY_TYPE=unigram    # ours: sentencepiece's default
COVERAGE=1.0               # paper p. 4
VOCABULARY_KIND=joint      # ours; --vocabulary merged has the ~50K rows that 228M parameters imply

UPDATES=80000              # paper p. 4
DROPOUT=0.1                # paper p. 4

MODELS='
# name                    architecture                             flags

# Table 2, sharing
baseline                  transformer_ffn_big_baseline
shared_enc                transformer_ffn_big_shared_enc
shared_dec                transformer_ffn_big_shared_dec
shared_enc_shared_dec     transformer_ffn_big_shared_enc_shared_dec
shared_enc_dec            transformer_ffn_big_shared_enc_dec

# Table 3, dropping
no_enc                    transformer_ffn_big_no_enc
no_dec                    transformer_ffn_big_no_dec
no_enc_no_dec             transformer_ffn_big_no_enc_no_dec
shared_enc_no_dec         transformer_ffn_big_shared_enc_no_dec
no_enc_shared_dec         transformer_ffn_big_no_enc_shared_dec

# Table 4, widening; 4,096 is shared_enc_no_dec
shared_enc_no_dec_24576   transformer_ffn_big_shared_enc_no_dec    --encoder-ffn-embed-dim 24576
one_wide                  transformer_ffn_big_one_wide
shared_enc_no_dec_98304   transformer_ffn_big_shared_enc_no_dec    --encoder-ffn-embed-dim 98304

# Table 6, Base and Deep Encoder Shallow Decoder
base_baseline             transformer_ffn_base_baseline
base_shared_enc_no_dec    transformer_ffn_base_shared_enc_no_dec
base_one_wide             transformer_ffn_base_one_wide
deep_baseline             transformer_ffn_deep_baseline
deep_shared_enc_no_dec    transformer_ffn_deep_shared_enc_no_dec
deep_one_wide             transformer_ffn_deep_one_wide

# Table 7, several shared FFNs in the encoder; M = 1 is shared_enc
sequence_2                transformer_ffn_big_baseline             --encoder-ffn-layout sequence:2
sequence_3                transformer_ffn_big_baseline             --encoder-ffn-layout sequence:3
cycle_2                   transformer_ffn_big_baseline             --encoder-ffn-layout cycle:2
cycle_3                   transformer_ffn_big_baseline             --encoder-ffn-layout cycle:3
cycle_rev_2               transformer_ffn_big_baseline             --encoder-ffn-layout cycle-rev:2
cycle_rev_3               transformer_ffn_big_baseline             --encoder-ffn-layout cycle-rev:3

# Table 8, shared attention: encoder self-, decoder self-, cross-attention
attention_sss             transformer_ffn_big_baseline             --encoder-self-attn-layout shared --decoder-self-attn-layout shared --decoder-cross-attn-layout shared
attention_ssi             transformer_ffn_big_baseline             --encoder-self-attn-layout shared --decoder-self-attn-layout shared
attention_sii             transformer_ffn_big_baseline             --encoder-self-attn-layout shared
attention_isi             transformer_ffn_big_baseline             --decoder-self-attn-layout shared
attention_iss             transformer_ffn_big_baseline             --decoder-self-attn-layout shared --decoder-cross-attn-layout shared
attention_iis             transformer_ffn_big_baseline             --decoder-cross-attn-layout shared

# Controls that the paper lacks: as many parameters as One Wide without sharing; One Wide at the
# multiply-adds of the baseline; attention and FFN in parallel
no_dec_wide               transformer_ffn_big_no_dec               --encoder-ffn-embed-dim 8192
one_wide_same_cost        transformer_ffn_big_shared_enc_no_dec    --encoder-ffn-embed-dim 8192
parallel                  transformer_ffn_big_parallel
one_wide_parallel         transformer_ffn_big_one_wide_parallel
'

# newstest 2008 to 2012 in place of 296M pairs, under names and in formats of the real files
mini() {
  mini_sizes
  DATA='
train    europarl-10       en-de      mtdata  Statmt-europarl-10-deu-eng
train    paracrawl-9       en-de      mtdata  ParaCrawl-paracrawl-9-eng-deu
train    commoncrawl       en-de      mtdata  Statmt-commoncrawl_wmt13-1-deu-eng
train    rapid-2019        en-de      mtdata  Tilde-rapid-2019-deu-eng
valid    newstest2013      en-de      sgm     http://www.statmt.org/wmt13/dev.tgz#dev/newstest2013-{src.en,ref.de}.sgm
test     generaltest2022   en-de      text    https://github.com/wmt-conference/wmt22-news-systems/archive/refs/tags/v1.1.tar.gz#wmt22-news-systems-1.1/txt/{sources/generaltest2022.en-de.src.en,references/generaltest2022.en-de.ref.A.de}
'
  VALID=newstest2013
  SHARDS=2
  VOCABULARY_SIZE=1500
  MINI_MODELS='baseline one_wide'
  MINI_MIRROR=wmt22_en_de
}
