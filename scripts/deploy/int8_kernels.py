"""What does int8 cost on this processor, and what on one without 8-bit instructions?

    python scripts/deploy/int8_kernels.py
    ONEDNN_MAX_CPU_ISA=AVX2 python scripts/deploy/int8_kernels.py

Takes a model that export_study.py has exported and translates the test set with its int8 file,
computed in int8 and in float32, against the float32 file. oneDNN, which multiplies for CTranslate2
where Intel MKL isn't used, reads ONEDNN_MAX_CPU_ISA.
"""

from __future__ import annotations

import argparse

from common import add_arguments, ctranslate2_decode, read_text, run_study, table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="baseline", help="default: %(default)s")
    add_arguments(parser, "export_study")
    args = parser.parse_args()
    text, folder = read_text(args.corpus), args.output / args.config
    exact = ctranslate2_decode(text, folder / "float32", "float32").texts
    rows = [{"file": "float32", "computed in": "float32", "BLEU": f"{text.bleu(exact):.2f}"}]
    for compute_type in ("int8", "float32"):
        found = ctranslate2_decode(text, folder / "int8", compute_type).texts
        differing = sum(one != other for one, other in zip(exact, found))
        rows.append(
            {
                "file": "int8",
                "computed in": compute_type,
                "BLEU": f"{text.bleu(found):.2f}",
                "p": f"{text.p_value(exact, found):.3f}",
                "differing": str(differing),
            }
        )
    print(table(rows))


if __name__ == "__main__":
    run_study(main)
