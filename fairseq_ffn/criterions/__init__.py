"""Criterions of this plugin; importing registers them with fairseq."""

from fairseq_ffn.criterions import label_smoothed_cross_entropy_fused  # noqa: F401  (registers)
