"""The README of an exported model, whose example runs as it stands."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

_FACTS = """\
# {source} to {target}

Made by `fairseq-ffn export` from {checkpoint}: {arch}, {parameters:,} parameters, encoder FFN
`{encoder_ffn}`, decoder FFN `{decoder_ffn}`.{more}

"""

_INT8 = (
    "On x86 processors without VNNI, 8-bit products can overflow and cost quality. There",
    '`ctranslate2.Translator(str(folder), compute_type="float32")` computes with the rounded',
    "weights in single precision.",
    "",
)


def ctranslate2_readme(facts: Dict[str, Any], pieces: Sequence[str]) -> str:
    """How to translate with CTranslate2.

    Args:
        facts: of the model.
        pieces: names of the sentencepiece models in the folder: none, one for both languages, or
            one each.
    """
    more = f" Weights: {facts['quantization']}."
    load, cut, join = _sentencepiece_python(pieces)
    return _FACTS.format(more=more, **facts) + "\n".join(
        [
            f"For CTranslate2 (`pip install ctranslate2{' sentencepiece' if pieces else ''}`).",
            "With these settings it searches as fairseq-generate does with `--beam 5`; in this",
            "folder:",
            "",
            "```python",
            "from pathlib import Path",
            "",
            "import ctranslate2",
            *(["import sentencepiece"] if pieces else []),
            "",
            'folder = Path(".")',
            "translator = ctranslate2.Translator(str(folder))",
            *load,
            "",
            'sentences = ["Where did you buy this book?"]',
            f"tokens = {cut}",
            "results = translator.translate_batch(",
            "    tokens, beam_size=5, length_penalty=1, max_decoding_length=200",
            ")",
            "for result in results:",
            f"    print({join})",
            "```",
            "",
            *_cutting(pieces),
            f"Sentences of more than {facts['longest'] - 1} tokens are too long for the model. A",
            "result's score is the mean natural logarithm of its tokens' probabilities;",
            "fairseq prints it divided by ln 2.",
            "",
            *(_INT8 if facts["quantization"].startswith("int8") else ()),
        ]
    )


def fairseq_readme(facts: Dict[str, Any], pieces: Sequence[str]) -> str:
    """How to translate with fairseq without our plugin."""
    more = ""
    if facts["autocast"] != "none":
        more = (
            f"\nIt was trained under `--cpu-autocast {facts['autocast']}`, which stock fairseq "
            "hasn't; translations are made in single precision with the plugin as well."
        )
    flags = ""
    if len(pieces) == 1:
        flags = f" \\\n    --bpe sentencepiece --sentencepiece-model {pieces[0]}"
    return _FACTS.format(more=more, **facts) + "\n".join(
        [
            "A checkpoint of fairseq's own `transformer`; it needs no plugin. In this folder:",
            "",
            "```bash",
            'echo "Where did you buy this book?" | fairseq-interactive . --user-dir safe_loading '
            "\\",
            f"    --path checkpoint.pt --source-lang {facts['source']} --target-lang "
            f"{facts['target']} --beam 5{flags}",
            "```",
            "",
            *_cutting(pieces if len(pieces) == 1 else ()),
            "`--user-dir safe_loading` isn't a plugin but three lines: from PyTorch 2.6 on,",
            "`torch.load` refuses the class `argparse.Namespace`, which all of fairseq's",
            "checkpoints hold, and they name it as safe. In a program of yours:",
            "",
            "```python",
            "import argparse",
            "",
            "import torch",
            "",
            "torch.serialization.add_safe_globals([argparse.Namespace])",
            "```",
            "",
            "Before PyTorch 2.6 neither is needed.",
            "",
        ]
    )


def _sentencepiece_python(pieces: Sequence[str]) -> tuple:
    hypothesis = "result.hypotheses[0]"
    if not pieces:
        return [], "[sentence.split() for sentence in sentences]", f'" ".join({hypothesis})'
    load = "sentencepiece.SentencePieceProcessor(model_file=str(folder / {!r}))"
    variables = ["pieces"] if len(pieces) == 1 else ["source_pieces", "target_pieces"]
    lines: List[str] = [
        f"{variable} = {load.format(name)}".replace("'", '"')
        for variable, name in zip(variables, pieces)
    ]
    return (
        lines,
        f"{variables[0]}.encode(sentences, out_type=str)",
        f"{variables[-1]}.decode({hypothesis})",
    )


def _cutting(pieces: Sequence[str]) -> List[str]:
    if pieces:
        return []
    return [
        "Sentences must be cut into tokens as the training text was (tokenizer, BPE or",
        "sentencepiece), and the tokens of a translation joined again.",
        "",
    ]
