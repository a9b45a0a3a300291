"""Sentences to show: spread over the test set, where the systems differ, differences marked."""

from __future__ import annotations

import difflib
import itertools
from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

from fairseq_ffn.reporting.results import Result

#: what a mark means
MARKED = "words that aren't part of the reference's word order"


@dataclass(frozen=True)
class Sample:
    """One sentence.

    Args:
        number: in the test set, from 0.
        source: or '' if unknown.
        reference: the first one.
        hypotheses: per run its words, each with whether the reference has it at that place.
    """

    number: int
    source: str
    reference: str
    hypotheses: Dict[str, List[Tuple[str, bool]]]


def choose(results: Sequence[Result], count: int, least_words: int = 7) -> List[Sample]:
    """Up to ``count`` samples: spread evenly over the sentences that are long enough to tell.

    Sentences that the runs translate differently come first; the order is that of the set.
    """
    references = results[0].texts.references[0]
    candidates = [
        number for number, text in enumerate(references) if len(text.split()) >= least_words
    ] or list(range(len(references)))
    differing = [
        number
        for number in candidates
        if len({result.texts.hypotheses[number] for result in results}) > 1
    ]
    pool = differing if len(differing) >= count else candidates
    step = max(1, len(pool) // max(1, count))
    sources = results[0].texts.sources
    return [
        Sample(
            number,
            sources[number] if sources is not None else "",
            references[number],
            {
                result.name: marked(result.texts.hypotheses[number], references[number])
                for result in results
            },
        )
        for number in pool[::step][:count]
    ]


def runs_of_words(words: Sequence[Tuple[str, bool]]) -> List[Tuple[str, bool]]:
    """Neighbours that are both alike or both different, joined by spaces, so marks span them."""
    return [
        (" ".join(word for word, _ in group), same)
        for same, group in itertools.groupby(words, key=lambda word: word[1])
    ]


def marked(hypothesis: str, reference: str) -> List[Tuple[str, bool]]:
    """The hypothesis' words, each with True where it is part of the reference's word order."""
    words, others = hypothesis.split(), reference.split()
    matcher = difflib.SequenceMatcher(None, words, others, autojunk=False)
    matching = set()
    for block in matcher.get_matching_blocks():
        matching.update(range(block.a, block.a + block.size))
    return [(word, position in matching) for position, word in enumerate(words)]
