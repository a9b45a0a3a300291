"""Task ``translation_fast``: fairseq's translation with a beam search that costs less."""

from dataclasses import dataclass
from typing import Any, Optional, Sequence

from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_ffn.decoding.fast_search import search_class


@dataclass
class TranslationFastConfig(TranslationConfig):
    """fairseq's flags."""


@register_task("translation_fast", dataclass=TranslationFastConfig)
class TranslationFastTask(TranslationTask):
    """Translation with the same hypotheses; searches that it doesn't know stay fairseq's own."""

    def build_generator(
        self, models: Sequence[Any], args: Any, seq_gen_cls: Optional[type] = None, **options: Any
    ) -> Any:
        """Our beam search where it is what is asked for, else fairseq's; one line says which."""
        if seq_gen_cls is None:
            seq_gen_cls = search_class(
                args,
                models,
                len(self.target_dictionary),
                lm_model=(options.get("extra_gen_cls_kwargs") or {}).get("lm_model"),
                prefix_allowed_tokens_fn=options.get("prefix_allowed_tokens_fn"),
            )
        return super().build_generator(models, args, seq_gen_cls=seq_gen_cls, **options)
