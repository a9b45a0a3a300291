"""What a record says of the models that were decoded: architecture and size."""

from __future__ import annotations

from typing import Any, Dict, Sequence

from torch import nn

#: names of sub-modules that aren't part of the body
_NOT_BODY = ("embed_tokens", "embed_positions", "output_projection", "adaptive_softmax")


def architecture_of(models: Sequence[Any]) -> str:
    """Names of the architectures as ``--arch`` takes them, several with ':'."""
    return ":".join(_architecture(model) for model in models)


def parameters_of(models: Sequence[nn.Module]) -> Dict[str, int]:
    """Parameters of all models together, a shared one counted once.

    Returns:
        ``total``, and ``body``: without embeddings, positions and output projection.
    """
    total, outside = {}, set()
    for model in models:
        for parameter in model.parameters():
            total[id(parameter)] = parameter.numel()
        for name, module in model.named_modules():
            if name.split(".")[-1] in _NOT_BODY:
                outside.update(id(parameter) for parameter in module.parameters())
    body = sum(size for key, size in total.items() if key not in outside)
    return {"total": sum(total.values()), "body": body}


def _architecture(model: Any) -> str:
    for holder in (getattr(model, "args", None), getattr(model, "cfg", None)):
        for name in ("arch", "_name"):
            value = getattr(holder, name, None)
            if isinstance(value, str):
                return value
    return type(model).__name__
