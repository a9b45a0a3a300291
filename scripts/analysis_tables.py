"""The tables of docs/analysis.md, from the records that analysis_study.sh writes.

python scripts/analysis_tables.py                 runs/analysis
python scripts/analysis_tables.py OTHER_FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

STACKS = ("encoder", "decoder")
Row = List[str]


def table(header: Sequence[str], rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [list(header), ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def listed(values: Sequence[Any], form: str = ".2f") -> str:
    """Numbers of the layers, in their order."""
    if all(value is None for value in values):
        return "-"
    return ", ".join("-" if value is None else format(value, form) for value in values)


def geometry(record: Dict[str, Any]) -> str:
    """Cosine around the FFN, branch ratios, defect, isotropy."""
    models = record["geometry"]

    def row(name: str, of_model: Callable[[Dict[str, Any]], str]) -> Row:
        return [name, *(of_model(model) for model in models.values())]

    def around(layer: Dict[str, Any]) -> str:
        cosines = {point["point"]: point["within_cosine"]["all"] for point in layer["points"]}
        ffn = layer["around_ffn"]
        if ffn is None:
            return f"{cosines['y']:.3f}, no FFN"
        return f"{cosines[ffn['without']]:.3f} -> {cosines[ffn['with']]:.3f}"

    def medians(model: Dict[str, Any], stack: str, kind: str) -> str:
        layers = [layer["branches"].get(kind) for layer in model["layers"][stack]]
        return listed([layer["ratio"]["median"] for layer in layers if layer is not None])

    rows = []
    for stack in STACKS:
        first = next(iter(models.values()))["layers"][stack]
        for index in range(len(first)):
            rows.append(
                row(
                    f"{stack}, layer {index}: cosine within sentences, without -> with FFN",
                    lambda model, i=index, s=stack: around(model["layers"][s][i]),
                )
            )
        for kind in ("self-attention", "cross-attention", "FFN"):
            if stack == "decoder" or kind != "cross-attention":
                rows.append(
                    row(
                        f"{stack}: median ratio of {kind} to the stream",
                        lambda model, s=stack, k=kind: medians(model, s, k),
                    )
                )
        rows.append(
            row(
                f"{stack}: median defect of running in parallel",
                lambda model, s=stack: listed(
                    [(layer["parallel_defect"] or {}).get("median") for layer in model["layers"][s]]
                ),
            )
        )
        for key, name in (("iso_score", "IsoScore"), ("partition_isotropy", "I(W)")):
            rows.append(
                row(
                    f"{stack}: {name} of the outputs",
                    lambda model, s=stack, k=key: listed(
                        [layer["points"][-1][k] for layer in model["layers"][s]], ".3f"
                    ),
                )
            )
    lines = [table(["", *models], rows), ""]
    for name, model in models.items():
        for stack in STACKS:
            answers = model["answers"][stack]
            lines.append(f"{name}, {stack}: A1 {answers['isotropy_rises_over_ffn']['words']}")
            lines.append(f"{name}, {stack}: A2 {answers['attention_residual_is_small']['words']}")
    return "\n".join(lines)


def attention_maps(record: Dict[str, Any]) -> str:
    """Change over each component, mixing, amplified pairs."""
    models = record["attention_maps"]
    rows = []
    for stack in STACKS:
        for name in models:
            layers = models[name]["layers"][stack]
            changes = {
                component: [layer["change"][component]["all"]["mean"] for layer in layers]
                for component in ("attention", "FF", "RES", "LN", "FF block")
            }
            mixing = [list(layer["mixing_ratio"].values()) for layer in layers]
            alone = [layer["mixing_ratio"]["ATTN-N"]["mean"] for layer in layers]
            block = [layer["mixing_ratio"]["ATB"]["mean"] for layer in layers]
            source = [list(layer["shares"].values()) for layer in layers]
            words = [layer["ff_amp"]["kinds"].get("same word") for layer in layers]
            rows.append(
                [
                    f"{name}, {stack}",
                    *(listed(values) for values in changes.values()),
                    listed(alone, ".0%"),
                    listed(block, ".0%"),
                    listed([layer[-1]["mean"] for layer in mixing], ".0%"),
                    listed([shares[-1]["sources"] for shares in source if shares], ".0%"),
                    listed([word and word["top"] for word in words], ".0%")
                    + f" of {listed([word and word['all'] for word in words][:1], '.0%')}",
                ]
            )
    header = (
        *("", "attention", "FF", "RES", "LN", "FF block"),
        *("mixing: ATTN-N", "ATB", "whole layer", "source in the output", "one word, of all"),
    )
    errors = [
        layer[key]
        for key in ("reconstruction_error", "difference_to_model")
        for model in models.values()
        for stack in STACKS
        for layer in model["layers"][stack]
    ]
    half = len(errors) // 2
    return "\n".join(
        [
            table(header, rows),
            "",
            f"Largest reconstruction error {max(errors[:half]):.0e}, "
            f"difference to the model {max(errors[half:]):.0e}; seconds a sentence: "
            + listed([model["seconds_per_sentence"] for model in models.values()]),
        ]
    )


def similarity(record: Dict[str, Any]) -> str:
    """Checkerboard, same module, benchmark, chance."""

    def spread(value: Dict[str, float], form: str) -> str:
        return f"{value['value']:{form}} [{value['low']:{form}}, {value['high']:{form}}]"

    checkers = []
    for name, stacks in record["within"].items():
        near = [stacks[stack]["neighbours"] for stack in STACKS]
        checkers.append(
            [
                f"{name}, encoder / decoder",
                *(" / ".join(f"{one[key]:.2f}" for one in near) for key in ("immediate", "second")),
                " / ".join(f"{one['share_second_higher']:.0%}" for one in near),
            ]
        )
    rows, chance = [], []
    for entry in record["between"]:
        for stack in STACKS:
            there = entry[stack]
            ratios = there.get("normalised")
            rows.append(
                [
                    f"{entry['model']}, {stack}",
                    there["compared"],
                    spread(there["same_module"]["cka"]["mean"], ".2f"),
                    spread(there["same_module"]["lns"]["mean"], ".3f"),
                    *(spread(ratios[key], ".0%") if ratios else "-" for key in ("cka", "lns")),
                ]
            )
            chance.append(
                f"{entry['model']}, {stack}: untrained CKA "
                f"{there['untrained']['cka']['mean']['value']:.2f}, LNS "
                f"{there['untrained']['lns']['mean']['value']:.2f}; permuted sentences CKA "
                f"{there['permuted_sentences']['cka']['mean']['value']:.2f}, LNS "
                f"{there['permuted_sentences']['lns']['mean']['value']:.2f}"
            )
    parts = [
        table(
            [f"{record['cka']} CKA", "next", "next but one", "next but one is more alike"], checkers
        ),
        table(
            [
                "same module as the baseline",
                "compared",
                "CKA",
                "LNS",
                "CKA / seed",
                "LNS / seed",
            ],
            rows,
        ),
        "\n".join(chance),
        f"LNS of random sets {record['lns_chance']:.3f}",
    ]
    return "\n\n".join(parts)


def main() -> None:
    """Print all tables that there are records for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs/analysis"), help="(runs/analysis)"
    )
    folder = parser.parse_args().folder
    records = (
        ("geometry/geometry.json", geometry),
        ("attention_maps/attention_maps.json", attention_maps),
        ("similarity/similarity.json", similarity),
        ("similarity_biased/similarity.json", similarity),
    )
    found = [(folder / name, show) for name, show in records if (folder / name).is_file()]
    if not found:
        parser.error(f"{folder}: no records there; run scripts/analysis_study.sh")
    for path, show in found:
        record = json.loads(path.read_text(encoding="utf-8"))
        print(f"{path}: {record['sentences']} sentences\n\n{show(record)}\n")


if __name__ == "__main__":
    main()
