"""``--cpu-matmul``: which library multiplies float32 matrices while a model trains on a CPU.

It is a switch of the whole process (``fairseq_ffn/onednn.py``). It is on while a model is in
training mode, forward and backward; evaluation and decoding are as ever.
"""

from __future__ import annotations

import logging

import torch

from fairseq_ffn import onednn
from fairseq_ffn.cpu_speed import faster_cpu_matmul
from fairseq_ffn.errors import UserError

logger = logging.getLogger(__name__)

#: most tokens of the products that ``auto`` times: more change nothing but the time it takes
MOST_TOKENS = 1024


class CpuMatmul:
    """Which library multiplies float32 matrices while a model trains.

    Args:
        setting: of ``--cpu-matmul``: ``default``, ``onednn``, or ``auto``, which measures once, at
            the first batch.
        d_model: width of the model.
        d_ff: hidden units of an FFN.
        vocabulary: rows of the output projection.
    """

    def __init__(self, setting: str, d_model: int, d_ff: int, vocabulary: int):
        self.setting = setting
        self._shape = {
            "d_model": d_model,
            # the speed of the kernel is asked, which a wider product doesn't change
            "d_ff": min(d_ff, 4 * d_model),
            "vocabulary": min(vocabulary, 8 * d_model),
        }
        self._checked = False

    def training(self, on: bool) -> None:
        """Take what was chosen for training, or PyTorch's default for all else.

        Raises:
            UserError: ``onednn`` was asked for and can't be had in float32.
        """
        if self.setting == "default":
            return
        if on and self.setting == "onednn" and not self._checked:
            if not onednn.is_exact():
                raise UserError(
                    "--cpu-matmul onednn: this PyTorch or CPU has no float32 product by oneDNN; "
                    "use auto, default, or --cpu-autocast bfloat16"
                )
            self._checked = True
        onednn.use(on and self.setting == "onednn")

    def batch(self, tokens: int) -> None:
        """``auto`` measures at the first batch of a training, since it depends on its size.

        Args:
            tokens: rows of the batch's matrix products.
        """
        if self.setting != "auto":
            return
        self.setting = "default"
        if onednn.is_exact():
            self._checked = True
            self.setting = faster_cpu_matmul(
                **self._shape, tokens=min(tokens, MOST_TOKENS), threads=torch.get_num_threads()
            )
        logger.info(f"--cpu-matmul auto: {self.setting}, as measured on this CPU")
        onednn.use(self.setting == "onednn")
