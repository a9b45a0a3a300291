"""The model ``transformer_ffn`` and its architectures; importing registers both with fairseq."""

from fairseq_ffn.models import architectures, transformer_ffn  # noqa: F401
