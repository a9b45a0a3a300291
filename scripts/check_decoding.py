"""Does the fast path give the plain path's translations, and what does rounding cost?

    python scripts/check_decoding.py runs/quickstart/*/checkpoints/checkpoint_last.pt

Decodes a whole set with fairseq's own path and with ours. Single precision: all hypotheses of the
beam, their order and their scores are compared. bfloat16 and int8: BLEU. Exit status 1 if single
precision differs in more than ties (two hypotheses whose scores are within the tolerance) explain.
Also how many of the encoder's hidden units are active, which decides whether a wide FFN's second
product may leave the others out.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from typing import Any, Dict, List

import sacrebleu
import torch
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf

from fairseq_ffn.cli.arguments import positive
from fairseq_ffn.decoding.candidates import LoadedModel, SetToDecode, load_checkpoints
from fairseq_ffn.decoding.fast_search import search_class
from fairseq_ffn.decoding.products import KERNELS
from fairseq_ffn.errors import run_script
from fairseq_ffn.latency.protocol import spread_over

TOLERANCE = 1e-4
#: whose hidden units are looked at
SENTENCES = 200


def decode(loaded: LoadedModel, batches: List[dict], inference: str, beam: int) -> Dict[int, Any]:
    """All hypotheses by sentence; ``plain`` is fairseq's model and fairseq's search."""
    config = OmegaConf.structured(FairseqConfig())
    config.generation.beam = beam
    loaded.model.args.inference = inference
    loaded.model.prepare_for_inference_(config)
    options, models = config.generation, [loaded.model]
    kind = search_class(options, models, len(loaded.task.target_dictionary))
    generator = loaded.task.build_generator(models, options, seq_gen_cls=kind)
    found: Dict[int, Any] = {}
    begin = time.monotonic()
    for batch in batches:
        hypotheses = loaded.task.inference_step(generator, models, batch)
        found.update(zip(batch["id"].tolist(), hypotheses))
    logging.info(f"{loaded.name}: {inference}: {time.monotonic() - begin:.1f} s")
    return found


def differences(one: Dict[int, Any], other: Dict[int, Any]) -> Dict[str, Any]:
    """Sentences whose best hypothesis or beam differs, and how far scores do."""
    best = beams = ties = 0
    largest = 0.0
    for sentence, mine in one.items():
        theirs = other[sentence]
        texts = [[h["tokens"].tolist() for h in beam] for beam in (mine, theirs)]
        scores = [torch.stack([h["score"] for h in beam]) for beam in (mine, theirs)]
        gap = float((scores[0] - scores[1]).abs().max())
        if texts[0] == texts[1]:
            largest = max(largest, gap)
            continue
        beams += 1
        best += texts[0][0] != texts[1][0]
        ties += gap <= TOLERANCE
    return {
        "sentences": len(one),
        "best hypothesis differs": best,
        "some hypothesis differs": beams,
        "of these by ties": ties,
        "largest difference of scores": largest,
    }


def bleu(loaded: LoadedModel, found: Dict[int, Any]) -> float:
    """sacreBLEU of the best hypotheses."""
    words, dataset = loaded.task.target_dictionary, loaded.task.dataset("test")
    pairs = [
        (words.string(beam[0]["tokens"], "sentencepiece"), dataset[sentence]["target"])
        for sentence, beam in sorted(found.items())
    ]
    references = [words.string(target, "sentencepiece") for _, target in pairs]
    return sacrebleu.corpus_bleu([text for text, _ in pairs], [references]).score


def activity(loaded: LoadedModel, sentences: List[dict]) -> str:
    """Part of the encoder's hidden units that aren't 0: for a word, and for any of a sentence.

    Args:
        loaded: a model whose FFNs have ReLU, else all are active.
        sentences: batches of one sentence each.
    """
    encoder = loaded.model.encoder
    of_words: List[float] = []
    of_sentences: List[float] = []

    def look(_: Any, inputs: Any) -> None:
        active = inputs[0].flatten(0, -2) != 0  # (words, hidden units)
        of_words.append(float(active.float().mean()))
        of_sentences.append(float(active.any(0).float().mean()))

    # the stack's own layers, which the fast ones stand in front of
    ffns = {id(layer.fc2): layer.fc2 for layer in encoder.layers if layer.fc2 is not None}
    hooks = [fc2.register_forward_pre_hook(look) for fc2 in ffns.values()]
    loaded.model.args.inference = "plain"
    loaded.model.prepare_for_inference_(OmegaConf.structured(FairseqConfig()))
    with torch.no_grad():
        for batch in sentences:
            loaded.model.encoder.forward_torchscript(batch["net_input"])
    for hook in hooks:
        hook.remove()
    if not of_words:
        return "no FFN"
    word, sentence = (sum(parts) / len(parts) for parts in (of_words, of_sentences))
    return f"{word:.1%} for a word, {sentence:.1%} for any word of a sentence"


def main() -> None:
    """Compare, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--data", default="data-bin/tatoeba_en_de/bin")
    parser.add_argument("--beam", type=positive, default=5)
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument("--precisions", default="float32,bfloat16,int8")
    args = parser.parse_args()
    for precision in args.precisions.split(","):
        if precision not in KERNELS:
            parser.error(f"--precisions {precision}: use some of {', '.join(KERNELS)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    failed = False
    for checkpoint in args.checkpoints:
        loaded = load_checkpoints([checkpoint], args.data)[0]
        loaded.model.eval()
        chosen = SetToDecode([loaded], "test")
        order = chosen.order
        batches = [
            chosen.dataset.collater(
                [chosen.dataset[int(i)] for i in order[start : start + args.batch_size]]
            )
            for start in range(0, len(order), args.batch_size)
        ]
        plain = decode(loaded, batches, "plain", args.beam)
        print(f"{checkpoint}: plain: BLEU {bleu(loaded, plain):.2f}", flush=True)
        few = [
            chosen.dataset.collater([chosen.dataset[int(order[index])]])
            for index in spread_over(len(order), min(SENTENCES, len(order)))
        ]
        print(f"{checkpoint}: active hidden units: {activity(loaded, few)}", flush=True)
        for precision in args.precisions.split(","):
            fast = decode(loaded, batches, precision, args.beam)
            facts = differences(fast, plain)
            print(f"{checkpoint}: {precision}: BLEU {bleu(loaded, fast):.2f}, {facts}", flush=True)
            if precision == "float32":
                failed |= facts["some hypothesis differs"] > facts["of these by ties"]
                failed |= facts["largest difference of scores"] > TOLERANCE
    sys.exit(int(failed))


if __name__ == "__main__":
    run_script(main)
