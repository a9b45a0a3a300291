"""Where a quick start's results go, and whether a folder holds a run with the same settings."""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path
from typing import Dict, Optional, Tuple

from corpus import Corpus
from jobs import UserError


def default_output(
    args: argparse.Namespace,
    defaults: argparse.Namespace,
    base: Path,
    raw: Path,
    languages: Tuple[str, str],
    usual_languages: Optional[Tuple[str, str]],
) -> Path:
    """A folder of its own for each choice of settings: ``runs/quickstart-minutes60-seed2``.

    Args:
        args: the options.
        defaults: the options when none is given.
        base: where the results go with these.
        raw: ``args.data``, resolved.
        languages: source and target.
        usual_languages: what they are without ``--source-lang`` and ``--target-lang``.
    """
    parts = [base.name]
    if raw != defaults.data.resolve():
        # two folders may have one name
        short = hashlib.sha256(str(raw).encode()).hexdigest()[:6]
        parts += [re.sub(r"[^\w.]+", "_", raw.name)[:40], short]
    if languages != usual_languages:
        parts += languages
    if args.models != defaults.models:
        parts += args.models
    if args.updates is not None:
        parts.append(f"updates{args.updates}")
    elif args.minutes != defaults.minutes:
        parts.append(f"minutes{args.minutes:g}")
    if args.vocabulary_size != defaults.vocabulary_size:
        parts.append(f"vocabulary{args.vocabulary_size}")
    if args.seed != defaults.seed:
        parts.append(f"seed{args.seed}")
    return base.parent / "-".join(parts)


def settings(args: argparse.Namespace, corpus: Corpus) -> Dict[str, object]:
    """What must not change within an output folder; more models may come to it."""
    return {
        "data": corpus.checksum(),
        "languages": f"{corpus.source}-{corpus.target}",
        "vocabulary_size": args.vocabulary_size,
        "seed": args.seed,
        "minutes": None if args.updates else args.minutes,
        "updates_asked": args.updates,
    }


def check_same(output: Path, found: Dict[str, object], wanted: Dict[str, object]) -> None:
    """Compare the settings of a run that is there with those asked for.

    Raises:
        UserError: naming what differs.
    """
    old, new = _in_words(found), _in_words(wanted)
    differing = [name for name in new if old[name] != new[name]]
    if differing:
        raise UserError(
            f"{output} holds a run with {' and '.join(old[name] for name in differing)}, not "
            f"{' and '.join(new[name] for name in differing)}; choose another --output, or "
            "delete that folder"
        )


def _in_words(values: Dict[str, object]) -> Dict[str, str]:
    if values.get("updates_asked") is not None:
        length = f"--updates {values['updates_asked']}"
    else:
        length = f"--minutes {values.get('minutes'):g}"
    return {
        "data": f"text of checksum {values.get('data')} (--data)",
        "languages": f"languages {values.get('languages')}",
        "vocabulary_size": f"--vocabulary-size {values.get('vocabulary_size')}",
        "seed": f"--seed {values.get('seed')}",
        "length": length,
    }
