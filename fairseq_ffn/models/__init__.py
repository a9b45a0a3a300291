"""The models and their architectures; importing registers both with fairseq."""

from fairseq_ffn.models import architectures, decoder_only, transformer_ffn  # noqa: F401
