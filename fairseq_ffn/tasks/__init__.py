"""Tasks of this plugin; importing registers them with fairseq."""

from fairseq_ffn.tasks import translation_latency  # noqa: F401  (registers)
