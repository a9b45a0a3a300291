"""Tasks of this plugin; importing registers them with fairseq."""

from fairseq_ffn.tasks import translation_fast, translation_latency  # noqa: F401  (register)
