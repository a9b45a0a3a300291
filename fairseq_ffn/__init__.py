"""fairseq_ffn: Transformers whose feed-forward networks are shared, absent, wide or parallel.

Importing the package registers the model ``transformer_ffn`` and its architectures with fairseq
and lets fairseq's checkpoints load without running code from the file. ``--user-dir fairseq_ffn``
does that import. The imports of ``models`` and ``tasks`` below stand here, rather than being left
to fairseq, since fairseq skips them when the package has been imported before.
"""

import logging
import sys

from fairseq_ffn.checkpoints import allow_fairseq_checkpoints
from fairseq_ffn.errors import install_one_line_errors
from fairseq_ffn.misspelt import refuse_misspelt_names

# a hint about a package for speech, which every import of fairseq would print
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)
allow_fairseq_checkpoints()
install_one_line_errors()

from fairseq_ffn import criterions, models, optim, tasks  # noqa: E402, F401  (register)

refuse_misspelt_names(sys.argv)

__version__ = "0.1.0"
