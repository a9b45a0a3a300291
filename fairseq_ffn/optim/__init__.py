"""Optimisers of this plugin; importing registers them with fairseq."""

from fairseq_ffn.optim import adam_fused  # noqa: F401  (registers)
