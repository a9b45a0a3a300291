# shellcheck shell=bash disable=SC2034
# What all steps of all recipes share: options, log, stamps, and the names of files.
#
# A step is scripts/<experiment>/NN_name.sh, a link to scripts/recipes/NN_name.sh; the folder of the
# link says which experiment it is, and holds config.sh. A step does:
#
#   source lib.sh            functions and variables
#   begin "$@"               options, configuration, set-up, lock; ends here for --help
#   stamped NAME SETTINGS && ...   what is done already with the same settings is skipped
#   run COMMAND ...          shown and logged; with --dry-run only shown
#   finish                   says what to run next
set -euo pipefail

RECIPES=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
ROOT=$(cd "$RECIPES/../.." && pwd)
EXPERIMENT_DIR=$(cd "$(dirname "$0")" && pwd)
EXPERIMENT=$(basename "$EXPERIMENT_DIR")
STEP=$(basename "$0" .sh)
STEPS=(01_download 02_clean 03_vocabulary 04_binarise 05_train 06_average 07_generate 08_score
  09_latency 10_report)

COMMON_OPTIONS='Options that all steps take (run.sh hands them to each):
  --mini               a small model on little data: tries the whole recipe out in minutes. Without
                       --raw-dir and --mirror it makes files of the real names by mini_mirror.py
  --work DIR           where everything goes (default: runs/<experiment>, or runs/<experiment>-mini)
  --models A,B,...     models of the table in config.sh; the first is the baseline (default: all)
  --workers N          processes for data (default: the number of cores)
  --raw-dir DIR        files that are at hand, by <host>/<path> or by name; nothing else is copied
  --mirror URL         another base address: files come from URL/<host>/<path>
  --vocabulary KIND    joint or merged; merged gives the row count of the paper (03_vocabulary)
  --language-id        02_clean drops pairs in other languages (needs py3langid)
  --gpus N             processes of a training on this machine (default: its GPUs, else 1)
  --nodes N --node-rank R --rendezvous HOST:PORT     training on several machines
  --updates N          updates of a training (default: as in config.sh)
  --max-tokens N       tokens on one GPU at once; the batch of an update stays as configured
  --cpu                train and translate on the CPU even if there is a GPU
  --dry-run            print the commands, run nothing
  -h, --help           this text'

say() { printf '[%s] %s\n' "$STEP" "$*" | if [ -n "${LOG:-}" ]; then tee -a "$LOG"; else cat; fi >&2; }
die() {
  say "error: $*"
  exit 1
}

# begin "$@": everything up to the work
begin() {
  MINI='' DRY_RUN='' WORK='' MODEL_NAMES='' RAW_DIR='' MIRROR='' VOCABULARY='' LANGUAGE_ID=''
  GPUS='' NODES=1 NODE_RANK=0 RENDEZVOUS='' GPU_TOKENS='' CPU='' LOG='' ASKED_UPDATES=''
  WORKERS=$(getconf _NPROCESSORS_ONLN)
  OPTIONS=("$@")
  parse_options "$@"
  # shellcheck disable=SC1091
  source "$EXPERIMENT_DIR/config.sh"
  if [ -n "$MINI" ]; then mini; fi
  WORK=${WORK:-$ROOT/runs/$EXPERIMENT${MINI:+-mini}}
  case $WORK in /*) ;; *) WORK=$PWD/$WORK ;; esac
  # steps on data may share a folder with another experiment on the same data
  DATA_WORK=${DATA_WORK:-$WORK}
  VOCABULARY=${VOCABULARY:-$VOCABULARY_KIND}
  GPU_TOKENS=${GPU_TOKENS:-$MAX_TOKENS}
  UPDATES=${ASKED_UPDATES:-$UPDATES}
  choose_models
  if [ -n "$DRY_RUN" ]; then
    PYTHON=${RECIPES_PYTHON:-python}
    return
  fi
  set_up
  mkdir -p "$WORK/logs" "$WORK/stamps" "$DATA_WORK/logs" "$DATA_WORK/stamps"
  LOG=$WORK/logs/$STEP.log
  # children hold the lock too: what a killed step left running has to end before the next starts
  if [ "$NODE_RANK" = 0 ] && [ "$STEP" != run ]; then
    local where=$WORK
    case $STEP in 01_* | 02_* | 03_* | 04_*) where=$DATA_WORK ;; esac
    exec 9>"$where/logs/$STEP.lock"
    flock -w 5 9 || die "another $STEP is at work in $where"
  fi
  say "$TITLE${MINI:+, miniature}: $WORK"
}

parse_options() {
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) help; exit 0 ;;
      --mini) MINI=1 ;;
      --dry-run) DRY_RUN=1 ;;
      --language-id) LANGUAGE_ID=1 ;;
      --cpu) CPU=1 ;;
      --work | --models | --workers | --raw-dir | --mirror | --vocabulary | --gpus | --nodes | \
        --node-rank | --rendezvous | --updates | --max-tokens)
        [ $# -ge 2 ] || die "$1: needs a value; see --help"
        case $1 in
          --work) WORK=$2 ;;
          --models) MODEL_NAMES=$2 ;;
          --workers) WORKERS=$(number "$@") ;;
          --raw-dir) [ -d "$2" ] || die "--raw-dir $2: no such folder"; RAW_DIR=$2 ;;
          --mirror) MIRROR=$2 ;;
          --vocabulary)
            case $2 in joint | merged) ;; *) die "--vocabulary $2: joint or merged" ;; esac
            VOCABULARY=$2 ;;
          --gpus) GPUS=$(number "$@") ;;
          --nodes) NODES=$(number "$@") ;;
          --node-rank)
            [[ $2 =~ ^[0-9]+$ ]] || die "--node-rank $2: not a number"; NODE_RANK=$2 ;;
          --rendezvous) RENDEZVOUS=$2 ;;
          --updates) ASKED_UPDATES=$(number "$@") ;;
          --max-tokens) GPU_TOKENS=$(number "$@") ;;
        esac
        shift ;;
      *) die "unknown option $1; see --help" ;;
    esac
    shift
  done
  if [ "$NODES" -gt 1 ] && [ -z "$RENDEZVOUS" ]; then
    die "--nodes $NODES: needs --rendezvous HOST:PORT, of the machine with --node-rank 0"
  fi
}

number() {
  [[ $2 =~ ^[1-9][0-9]*$ ]] || die "$1 $2: not a number from 1 on"
  printf '%s' "$2"
}

# the comment at the head of the step
help() {
  sed -n '2,/^[^#]/{/^# shellcheck/d;/^#/s/^# \{0,1\}//p}' "$(readlink -f "$0")"
  printf '\n%s\n' "$COMMON_OPTIONS"
}

set_up() {
  if [ -z "${RECIPES_PYTHON:-}" ]; then
    local arguments=("$@")
    set --
    # shellcheck disable=SC1091
    source "$ROOT/scripts/setup.sh"
    set -- ${arguments[@]+"${arguments[@]}"}
    export RECIPES_PYTHON=$PYTHON
  fi
  PYTHON=$RECIPES_PYTHON
  PATH="$(dirname "$PYTHON"):$PATH"
  export PYTHONWARNINGS=ignore
}

# the table of models: name, architecture, flags; comments and empty lines left out
choose_models() {
  local name arch flags asked
  declare -gA ARCH=() FLAGS=()
  ALL_MODELS=()
  while read -r name arch flags; do
    case $name in '' | \#*) continue ;; esac
    if [ -n "$MINI" ]; then read -r arch flags < <(mini_model "$arch" "$flags"); fi
    ALL_MODELS+=("$name") ARCH[$name]=$arch FLAGS[$name]=$flags
  done <<<"$MODELS"
  if [ -z "$MODEL_NAMES" ]; then
    CHOSEN=("${ALL_MODELS[@]}")
    if [ -n "$MINI" ]; then read -r -a CHOSEN <<<"$MINI_MODELS"; fi
    return
  fi
  IFS=, read -r -a CHOSEN <<<"$MODEL_NAMES"
  for asked in "${CHOSEN[@]}"; do
    [ -n "${ARCH[$asked]:-}" ] ||
      die "--models: no model '$asked' in $EXPERIMENT_DIR/config.sh; there are ${ALL_MODELS[*]}"
  done
}

# run COMMAND...: shown, its output in the log and on the terminal
run() {
  if [ -n "$DRY_RUN" ]; then
    printf '%s\n' "$(quoted "$@")"
    return
  fi
  printf '$ %s\n' "$(quoted "$@")" >>"$LOG"
  { "$@" 2>&1 | tee -a "$LOG" >&2; } || failed "$@"
}

failed() {
  local what=$1
  case $what in */python*) what=$(basename "${2:-}") ;; esac
  die "$(basename "$what") failed (see above, or $LOG); the same command goes on from there"
}

quoted() {
  local words
  printf -v words '%q ' "$@"
  printf '%s' "${words% }"
}

# The stamp of a step is a checksum of its settings and of the stamps that it builds on.
# stamped NAME SETTINGS...: true if the step is done already with these settings
stamped() {
  [ -z "$DRY_RUN" ] && [ "$(cat "$(stamp_file "$1")" 2>/dev/null)" = "$(stamp_of "${@:2}")" ] ||
    return 1
  say "$1: done"
}

# stamp NAME SETTINGS...: it is done now
stamp() {
  local file
  [ -z "$DRY_RUN" ] || return 0
  file=$(stamp_file "$1")
  stamp_of "${@:2}" >"$file.tmp"
  mv "$file.tmp" "$file"
}

stamp_of() { printf '%s\n' "$@" | sha256sum | cut -d' ' -f1; }

# need NAME: the stamp of an earlier step, whose work this one builds on
need() {
  if [ -n "$DRY_RUN" ]; then
    printf '%s' "$1"
    return
  fi
  cat "$(stamp_file "$1")" 2>/dev/null || die "${1%%.*} isn't done${2:+ for $2}; run $EXPERIMENT_DIR/${1%%.*}.sh first"
}

stamp_file() {
  case $1 in
    01_* | 02_* | 03_* | 04_*) printf '%s' "$DATA_WORK/stamps/$1" ;;
    *) printf '%s' "$WORK/stamps/$1" ;;
  esac
}

finish() {
  local index
  [ -z "$DRY_RUN" ] || return 0
  for index in "${!STEPS[@]}"; do
    if [ "${STEPS[$index]}" = "$STEP" ] && [ "$index" -lt $((${#STEPS[@]} - 1)) ]; then
      say "done; next: bash ${EXPERIMENT_DIR#"$PWD/"}/${STEPS[$((index + 1))]}.sh$(printf ' %q' ${OPTIONS[@]+"${OPTIONS[@]}"})"
    fi
  done
}

# rows of the data table: split, name, languages, kind, where
data_rows() {
  grep -vE '^[[:space:]]*(#|$)' <<<"$DATA"
}

# data of fairseq: all shards, as fairseq-train wants them
shards() {
  local shard paths=''
  for ((shard = 0; shard < SHARDS; shard++)); do
    paths+=${paths:+:}$(printf '%s/bin/%04d' "$DATA_WORK" "$shard")
  done
  printf '%s' "$paths"
}

# Test sets in SUBSETS are NAME, or NAME:DIRECTION for one direction of several.
# subset_folder SUBSET: for results
subset_folder() { printf '%s' "${1/:/.}"; }

# subset_directions SUBSET
# shellcheck disable=SC2153
subset_directions() {
  case $1 in *:*) printf '%s' "${1#*:}" ;; *) printf '%s' "$DIRECTIONS" ;; esac
}

# subset_name SUBSET: what fairseq calls it
subset_name() {
  local index=0 subset
  for subset in $SUBSETS; do
    if [ "$subset" = "$1" ]; then break; fi
    index=$((index + 1))
  done
  if [ "$index" = 0 ]; then printf test; else printf 'test%d' "$index"; fi
}

# the folders of the chosen models' results on a test set
run_folders() {
  local name
  for name in "${CHOSEN[@]}"; do printf '%s/results/%s/%s\n' "$WORK" "$(subset_folder "$1")" "$name"; done
}

# source and target as fairseq calls them
sides() {
  case $DIRECTIONS in
    *' '*) printf 'source target\n' ;;
    *) printf '%s\n' "${DIRECTIONS/-/ }" ;;
  esac
}

on_gpu() { [ -z "$CPU" ] && [ -z "$DRY_RUN" ] && "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; }
