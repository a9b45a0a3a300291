"""Run directories of made-up translations."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Mapping, Optional, Sequence

WORDS = ("der", "die", "das", "Haus", "Baum", "geht", "steht", "rot", "heute", "nicht", "immer")
_NUMBERS = random.Random(7)
REFERENCES = [
    " ".join(_NUMBERS.choice(WORDS) for _ in range(_NUMBERS.randint(8, 14))) for _ in range(40)
]


CPU = "Some CPU @ 2 GHz"
JSON_LOG = """2026 | INFO | train_inner | {"loss": "9.5", "nll_loss": "9", "num_updates": "10"}
2026 | INFO | train_inner | {"loss": "7.5", "nll_loss": "7", "num_updates": "20"}
2026 | INFO | valid | {"valid_loss": "7.1", "valid_nll_loss": "6.5", "valid_num_updates": "20"}
2026 | INFO | train_inner | {"loss": "dam
2026 | INFO | train_inner | {"loss": "6.5", "nll_loss": "6", "num_updates": "20"}
"""


def make_run(path: Path, errors: Optional[int] = 0, speed: Optional[float] = None) -> Path:
    """A run directory whose hypotheses have so many wrong words in each three sentences.

    Args:
        path: where.
        errors: None for no hypotheses.
        speed: tokens per second, for a ``latency.json``.
    """
    path.mkdir(parents=True)
    _write(path / "reference.txt", REFERENCES)
    _write(path / "source.txt", [f"source <{n}> & more" for n in range(len(REFERENCES))])
    if errors is not None:
        numbers = random.Random(errors)
        hypotheses = []
        for reference in REFERENCES:
            words = reference.split()
            for _ in range(numbers.randint(0, errors)):
                words[numbers.randrange(len(words))] = "<falsch>"
            hypotheses.append(" ".join(words))
        _write(path / "hypothesis.txt", hypotheses)
    if speed is not None:
        (path / "latency.json").write_text(json.dumps(latency_record(speed)))
    return path


def latency_record(speed: float) -> dict:
    """As much of a latency record as reports read."""
    return {
        "schema": "fairseq_ffn.latency/1",
        "checkpoint": "a.pt",
        "arch": "transformer",
        "parameters": {"total": 2_000_000, "body": 1_000_000},
        "protocol": {
            "device": "cpu",
            "threads": 1,
            "dtype": "float32",
            "batch_size": 1,
            "max_tokens": None,
            "beam": 5,
            "runs": 3,
        },
        "tokens_per_second": {"mean": speed, "std": 1.25, "runs": [speed] * 3},
        "tokens": 500,
        "sentences": 40,
        "machine": {"cpu": CPU},
    }


def comparison_record(
    speeds: Mapping[str, float], batch_sizes: Sequence[int] = (1,), lengths: Sequence = (None,)
) -> dict:
    """As much of a record of compare-latency as reports read; a ratio's interval is 10% each way.

    The larger the batch and the longer the source, the nearer to each other are the models.
    """
    names = list(speeds)

    def table(size, length):
        speed = {n: 100 + (speeds[n] - 100) / size / (length or 1) for n in names}
        ratios = [
            {
                "name": name,
                "baseline": baseline,
                "ratio": speed[name] / speed[baseline],
                "low": 0.9 * speed[name] / speed[baseline],
                "high": 1.1 * speed[name] / speed[baseline],
            }
            for index, name in enumerate(names)
            for baseline in names[:index]
        ]
        models = [
            {"name": name, "tokens_per_second": {"mean": speed[name], "std": 2.5}} for name in names
        ]
        return {
            "batch_size": size,
            "source_length": length,
            "batches": 20,
            "models": models,
            "ratios": ratios,
        }

    return {
        "schema": "fairseq_ffn.compare_latency/1",
        "models": [{"name": name} for name in names],
        "protocol": {
            "device": "cpu",
            "threads": 1,
            "dtype": "float32",
            "beam": 5,
            "rounds": 3,
            "force_length": None,
        },
        "results": [table(size, length) for length in lengths for size in batch_sizes],
        "machine": {"cpu": CPU},
    }


def _write(path: Path, lines) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
