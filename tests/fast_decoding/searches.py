"""A small model decoded on the plain and on the fast path."""

from __future__ import annotations

import copy
from typing import Any, Dict, List, Optional, Sequence

import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from helpers import batch, dictionary
from omegaconf import OmegaConf

from fairseq_ffn.decoding.fast_model import FastDecoder
from fairseq_ffn.tasks.translation_fast import TranslationFastTask

WORDS = dictionary()
CONFIG = {"train_subset": "train", "dataset_impl": None, "required_seq_len_multiple": 1}


def settings(**generation: Any) -> Any:
    """fairseq's configuration with some generation options."""
    config = OmegaConf.structured(FairseqConfig())
    generation = {"beam": 4, "max_len_b": 25, **generation}
    for name, value in generation.items():
        setattr(config.generation, name, value)
    return config


def search(
    models: Sequence[Any],
    path: str = "fast",
    seed: int = 3,
    lengths: Sequence[int] = (6, 4, 7, 3, 9),
    prefix: Any = None,
    mend_blocker: bool = False,
    bos_token: Optional[int] = None,
    suppressed: Sequence[str] = (),
    **generation: Any,
) -> List[List[Dict[str, torch.Tensor]]]:
    """All hypotheses.

    Args:
        models: of an ensemble; copied first.
        path: ``plain`` (fairseq's own), ``model`` (fast model, fairseq's search), ``fast``.
        seed: of the sentences.
        lengths: of the sentences.
        prefix: target tokens to begin with.
        mend_blocker: give fairseq's blocker of repeats only the tokens so far.
        bos_token: that targets begin with, in place of the end of sentence.
        suppressed: words that no target has.
        generation: options.
    """
    models = [copy.deepcopy(model) for model in models]
    config = settings(**generation)
    for model in models:
        if path == "plain" and hasattr(model, "layouts"):
            model.args.inference = "plain"
        model.prepare_for_inference_(config)
    kind = TranslationFastTask if path == "fast" else TranslationTask
    task = kind(TranslationConfig(**CONFIG), WORDS, WORDS)
    generator = task.build_generator(
        models, config.generation, extra_gen_cls_kwargs={"tokens_to_suppress": suppressed}
    )
    if mend_blocker:
        block = generator.repeat_ngram_blocker
        del generator.repeat_ngram_blocker
        generator.repeat_ngram_blocker = lambda tokens, scores, sentences, beam, step: block(
            tokens[:, : step + 1], scores, sentences, beam, step
        )
    sentences = batch(lengths, [3] * len(lengths), seed=seed)
    sample = {
        "net_input": {name: sentences[name] for name in ("src_tokens", "src_lengths")},
        "id": torch.arange(len(lengths)),
        "target": sentences["target"],
    }
    torch.manual_seed(1)
    with torch.no_grad():
        return generator.generate(models, sample, prefix_tokens=prefix, bos_token=bos_token)


def is_fast(model: Any) -> bool:
    """It decodes on the fast path."""
    return isinstance(model.decoder, FastDecoder)


def assert_same(
    one: List[List[Dict[str, torch.Tensor]]],
    other: List[List[Dict[str, torch.Tensor]]],
    tolerance: float = 1e-4,
) -> None:
    """The same best hypothesis; the same others but for ties; all scores within ``tolerance``."""
    assert len(one) == len(other)
    for mine, theirs in zip(one, other):
        assert len(mine) == len(theirs)
        for number, (h, g) in enumerate(zip(mine, theirs)):
            gap = abs(float(h["score"]) - float(g["score"]))
            assert h["score"] == g["score"] or gap <= tolerance
            if torch.equal(h["tokens"], g["tokens"]):
                steps = (h["positional_scores"], g["positional_scores"])
                assert torch.allclose(*steps, atol=10 * tolerance, equal_nan=True)
            else:
                assert number > 0 and gap <= 1e-5
