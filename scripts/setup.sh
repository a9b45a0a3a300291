#!/usr/bin/env bash
# Set-up: a virtual environment with everything pinned. Quick when it is done already.
#
#   bash scripts/setup.sh            what the quick start needs
#   bash scripts/setup.sh --test     the test tools as well
#
# Other scripts source this file; afterwards $PYTHON is the interpreter to use.
#
# Variables:
#   FAIRSEQ_FFN_PYTHON       use this existing interpreter as it is; nothing is installed
#   FAIRSEQ_FFN_VENV         where the environment lies (default: .venv in the checkout)
#   FAIRSEQ_FFN_BASE_PYTHON  interpreter to make it with (default: python3.11, else python3)
#   FAIRSEQ_FFN_TORCH        which torch (default: torch==2.13.0)
#   FAIRSEQ_FFN_TORCH_INDEX  package index for torch alone. PyPI's torch for Linux is the CUDA
#                            build, several gigabytes; the CPU build is a tenth of it:
#                            https://download.pytorch.org/whl/cpu
set -euo pipefail

case "${1:-}" in
  -h | --help) sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
  "" | --test) ;;
  *) printf '[set-up] error: unknown option %s; see --help\n' "$1" >&2; exit 2 ;;
esac

FFN_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ffn_say() { printf '[set-up] %s\n' "$*" >&2; }
ffn_die() { printf '[set-up] error: %s\n' "$*" >&2; exit 1; }

ffn_setup() {
  local with_tests=${1:-} venv stamp wanted base command
  if [ -n "${FAIRSEQ_FFN_PYTHON:-}" ]; then
    PYTHON=$FAIRSEQ_FFN_PYTHON
    command -v "$PYTHON" >/dev/null || ffn_die "FAIRSEQ_FFN_PYTHON=$PYTHON: no such interpreter"
    PYTHONPATH="$FFN_ROOT${PYTHONPATH:+:$PYTHONPATH}" "$PYTHON" -c \
      'import fairseq, sacrebleu, sentencepiece, fairseq_ffn' 2>/dev/null >&2 ||
      ffn_die "$PYTHON can't import fairseq, sacrebleu, sentencepiece and fairseq_ffn; install what README.md, 'Your own environment', lists, or unset FAIRSEQ_FFN_PYTHON"
    PYTHON=$(command -v "$PYTHON")
    export PYTHONPATH="$FFN_ROOT${PYTHONPATH:+:$PYTHONPATH}" PYTHON
    PATH="$(dirname "$PYTHON"):$PATH"
    for command in fairseq-preprocess fairseq-train fairseq-generate fairseq-ffn; do
      [ -x "$(dirname "$PYTHON")/$command" ] ||
        ffn_die "there is no $command beside $PYTHON; install this checkout there: $PYTHON -m pip install --no-build-isolation -e $FFN_ROOT"
    done
    if [ "$with_tests" = --test ]; then
      "$PYTHON" -c 'import hypothesis, matplotlib, pip, pytest, ruff, setuptools, wheel, xdist' \
        2>/dev/null ||
        ffn_die "$PYTHON lacks the test tools: $PYTHON -m pip install -r requirements/test.txt pip setuptools wheel"
    fi
    ffn_say "using the existing environment of $PYTHON"
    return
  fi

  venv=${FAIRSEQ_FFN_VENV:-$FFN_ROOT/.venv}
  stamp=$venv/fairseq-ffn-setup
  wanted=$(cat "$FFN_ROOT"/requirements/*.txt "$FFN_ROOT/setup.py" |
    cat - <(printf '%s|%s|%s' "${FAIRSEQ_FFN_TORCH:-}" "${FAIRSEQ_FFN_TORCH_INDEX:-}" "$FFN_ROOT") |
    cksum)
  PYTHON=$venv/bin/python
  export PYTHON
  PATH="$venv/bin:$PATH"
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$PYTHON" -c '' 2>/dev/null; then
    [ "$with_tests" != --test ] || ffn_test_tools "$wanted" "$stamp-test"
    return
  fi

  base=${FAIRSEQ_FFN_BASE_PYTHON:-$(command -v python3.11 || command -v python3 || true)}
  [ -n "$base" ] || ffn_die "no python3 found; install Python 3.11 or set FAIRSEQ_FFN_BASE_PYTHON"
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    ffn_die "$base is $("$base" -V 2>&1), but the pinned packages need 3.11; set FAIRSEQ_FFN_BASE_PYTHON"
  "$base" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    ffn_say "warning: $base is $("$base" -V 2>&1), only Python 3.11 is tested"
  command -v c++ >/dev/null || command -v g++ >/dev/null ||
    ffn_die "no C++ compiler found (fairseq is built from source); install g++"

  if ! "$PYTHON" -c 'import pip' 2>/dev/null; then
    ffn_say "making the virtual environment $venv"
    "$base" -m venv "$venv" || ffn_die "can't make $venv; is the venv module installed?"
  fi
  ffn_say "installing pinned packages, 3 to 6 minutes; fairseq is compiled on the way"
  ffn_pip -r "$FFN_ROOT/requirements/build.txt"
  ffn_say "  torch"
  if [ -n "${FAIRSEQ_FFN_TORCH_INDEX:-}" ]; then
    ffn_pip --index-url "$FAIRSEQ_FFN_TORCH_INDEX" "${FAIRSEQ_FFN_TORCH:-torch==2.13.0}"
  else
    ffn_pip "${FAIRSEQ_FFN_TORCH:-torch==2.13.0}"
  fi
  # no dependency may replace the torch that was chosen
  "$PYTHON" -c 'import torch; print("torch==" + torch.__version__)' >"$venv/constraints.txt" ||
    ffn_die "torch can't be imported after installation (see above)"
  cat "$FFN_ROOT/requirements/constraints.txt" >>"$venv/constraints.txt"
  # build isolation would fetch a second torch to compile against
  ffn_say "  fairseq"
  ffn_pip --no-build-isolation -c "$venv/constraints.txt" -r "$FFN_ROOT/requirements/fairseq.txt"
  ffn_pip -c "$venv/constraints.txt" -r "$FFN_ROOT/requirements/run.txt"
  ffn_say "  fairseq_ffn"
  ffn_pip --no-build-isolation --no-deps -e "$FFN_ROOT"
  "$PYTHON" -c 'import fairseq, fairseq_ffn' 2>/dev/null || {
    "$PYTHON" -c 'import fairseq, fairseq_ffn' || true
    ffn_die "fairseq can't be imported after installation (see above)"
  }
  printf '%s' "$wanted" >"$stamp"
  [ "$with_tests" != --test ] || ffn_test_tools "$wanted" "$stamp-test"
  ffn_say "done: $venv"
}

ffn_test_tools() {
  [ "$(cat "$2" 2>/dev/null)" != "$1" ] || return 0
  ffn_say "  test tools"
  ffn_pip -c "$(dirname "$2")/constraints.txt" -r "$FFN_ROOT/requirements/test.txt"
  printf '%s' "$1" >"$2"
}

ffn_pip() {
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-input "$@" \
    2> >(grep -v '^WARNING: ' >&2) || ffn_die "pip install $* failed (see above)"
}

ffn_setup "$@"
