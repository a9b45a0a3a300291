"""The comparison as Markdown, CSV and LaTeX, in the form of One Wide FFN, Tables 2 to 4."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence

from fairseq_ffn.errors import printable
from fairseq_ffn.reporting import speeds
from fairseq_ffn.reporting.results import SIGNIFICANT, Result
from fairseq_ffn.reporting.scores import signature_of

#: what LaTeX takes as commands, or doesn't have in its usual font encoding
_TEX = {
    **{letter: f"\\{letter}" for letter in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
}
#: what Markdown takes as marks inside a line; '_' isn't one inside a word
_MARKDOWN = re.compile(r"[\\`*<\[\]|~&$]|(?<![^\W_])_|_(?![^\W_])")
_TAG = re.compile("<(?=[A-Za-z/!?])")


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        key: name in CSV.
        title: heading.
        value: the exact value, or None.
        text: the value as printed.
        better: whether more (1) or less (-1) is better, 0 for neither.
    """

    key: str
    title: str
    value: Callable[[Result], Optional[float]]
    text: Callable[[Result], str]
    better: int = 0


def columns_of(results: Sequence[Result]) -> List[Column]:
    """The columns that at least one run fills; the first run is the baseline."""
    baseline = results[0]

    def share(part: str) -> Callable[[Result], Optional[float]]:
        def value(result: Result) -> Optional[float]:
            own, whole = result.parameters[part], baseline.parameters[part]
            return None if own is None or whole is None else 100 * own / whole

        return value

    def parameters(part: str) -> Callable[[Result], Optional[float]]:
        return lambda result: result.parameters[part]

    def metric(name: str) -> Callable[[Result], Optional[float]]:
        return lambda result: result.scores.get(name) and result.scores[name]["score"]

    def marked(name: str) -> Callable[[Result], str]:
        return lambda result: f"{metric(name)(result):.1f}{'†' if result.differs(name) else ''}"

    def speed(result: Result) -> str:
        std = result.speed.std
        return f"{result.speed.mean:.1f}" + ("" if std is None else f" ± {std:.1f}")

    def relative(result: Result) -> Optional[float]:
        return None if result.speed is None else result.speed.ratio

    def relative_text(result: Result) -> str:
        ends = result.speed.interval
        interval = "" if ends is None else f" [{ends[0]:.2f}, {ends[1]:.2f}]"
        return f"{result.speed.ratio:.2f}x{interval}"

    def millions(value: Callable[[Result], Optional[float]]) -> Callable[[Result], str]:
        return lambda result: f"{value(result) / 1e6:.4g}M"

    def work(result: Result) -> Optional[float]:
        return result.multiply_adds

    columns = [
        Column("bleu", "BLEU", metric("bleu"), marked("bleu"), 1),
        Column("chrf", "chrF", metric("chrf"), marked("chrf"), 1),
    ]
    for name, title, better in (("spbleu", "spBLEU", 1), ("ter", "TER", -1), ("comet", "COMET", 1)):
        value = metric(name)
        columns.append(Column(name, title, value, _fixed(value, 1), better))
    faster = 1 if speeds.comparable([result.speed for result in results]) else 0
    columns += [
        Column("tokens_per_second", "tokens/s", lambda r: r.tokens_per_second, speed, faster),
        Column("relative_speed", "speed", relative, relative_text, 1),
        Column("parameters", "parameters", parameters("total"), millions(parameters("total")), -1),
        Column("parameters_percent", "%", share("total"), _fixed(share("total"), 0), -1),
        Column("body_parameters", "body", parameters("body"), millions(parameters("body")), -1),
        Column("body_percent", "% body", share("body"), _fixed(share("body"), 0), -1),
        Column("multiply_adds", "multiply-adds", work, millions(work), -1),
    ]
    return [
        column for column in columns if any(column.value(result) is not None for result in results)
    ]


def cells(results: Sequence[Result], columns: Sequence[Column]) -> List[List[str]]:
    """Text of the table's body; '-' where a run has no value."""
    return [
        [column.text(result) if column.value(result) is not None else "-" for column in columns]
        for result in results
    ]


def markdown(results: Sequence[Result]) -> str:
    """A Markdown table with its notes."""
    columns = columns_of(results)
    lines = [
        "| run | " + " | ".join(column.title for column in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for result, row in zip(results, cells(results, columns)):
        lines.append(f"| {escaped(result.name)} | " + " | ".join(row) + " |")
    described = [_TAG.sub(r"\\<", note) for note in notes(results)]
    return "\n".join([*lines, "", *(f"{note}  " for note in described), ""])


def to_csv(results: Sequence[Result]) -> str:
    """Exact values, one run a line."""
    columns = columns_of(results)
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    more = ["bleu_p", "chrf_p", "relative_speed_low", "relative_speed_high"]
    writer.writerow(["run", *(column.key for column in columns), *more])
    for result in results:
        found: Dict[str, float] = result.scores.get("significance") or {}
        ends = result.speed.interval if result.speed is not None else None
        writer.writerow(
            [
                result.name,
                *(column.value(result) for column in columns),
                found.get("bleu_p"),
                found.get("chrf_p"),
                *(ends or (None, None)),
            ]
        )
    return output.getvalue()


def latex(results: Sequence[Result]) -> str:
    """A table for a paper; needs the package booktabs."""
    columns = columns_of(results)
    heading = " & ".join(["Model", *(_tex(column.title) for column in columns)])
    lines = [
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
        "\\toprule",
        f"{heading} \\\\",
        "\\midrule",
    ]
    for result, row in zip(results, cells(results, columns)):
        name = _tex(result.name)
        if name[:1] in "[*":  # else it's an argument of the line's end before it
            name = "{}" + name
        lines.append(" & ".join([name, *(_tex(cell) for cell in row)]) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join([*lines, *(f"% {note}" for note in notes(results)), ""])


def notes(results: Sequence[Result]) -> List[str]:
    """How the figures came about."""
    baseline = results[0]
    scores = baseline.scores
    lines = [
        f"BLEU: {scores['bleu']['signature']}; chrF: {scores['chrf']['signature']}; "
        f"{scores['sentences']} sentences, {scores['references']} "
        f"reference{'s' if scores['references'] > 1 else ''}."
    ]
    for name, title in (("spbleu", "spBLEU"), ("ter", "TER"), ("comet", "COMET")):
        if any(name in result.scores for result in results):
            lines.append(f"{title}: {signature_of([result.scores for result in results], name)}.")
    for result in results:
        found = result.scores.get("significance")
        if found:
            lines.append(
                f"†: differs from {found['baseline']} with p < {SIGNIFICANT} "
                f"({found['test']}, {found['samples']} samples)."
            )
            break
    lines += speeds.notes([result.name for result in results], [result.speed for result in results])
    if any(result.costs is not None for result in results):
        lines.append(
            "body: parameters without embeddings and output projection; multiply-adds: matrix "
            "products per source and target token together, without attention scores and output "
            "projection."
        )
    return [printable(line) for line in lines]


def _fixed(value: Callable[[Result], Optional[float]], digits: int) -> Callable[[Result], str]:
    return lambda result: f"{value(result):.{digits}f}"


def escaped(text: str) -> str:
    """A text that Markdown takes literally."""
    return _MARKDOWN.sub(r"\\\g<0>", text)


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)
