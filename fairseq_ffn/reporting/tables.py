"""The comparison as Markdown, CSV and LaTeX, in the form of One Wide FFN, Tables 2 to 4."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence

from fairseq_ffn.reporting.results import SIGNIFICANT, Result
from fairseq_ffn.reporting.scores import signature_of


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
            if result.parameters is None or baseline.parameters is None:
                return None
            return 100 * result.parameters[part] / baseline.parameters[part]

        return value

    def parameters(part: str) -> Callable[[Result], Optional[float]]:
        return lambda result: result.parameters and result.parameters[part]

    def metric(name: str) -> Callable[[Result], Optional[float]]:
        return lambda result: result.scores.get(name) and result.scores[name]["score"]

    def marked(name: str) -> Callable[[Result], str]:
        return lambda result: f"{metric(name)(result):.1f}{'†' if result.differs(name) else ''}"

    def speed(result: Result) -> str:
        record = result.latency["tokens_per_second"]
        return f"{record['mean']:.1f}" + (f" ± {record['std']:.1f}" if record["std"] else "")

    def relative(result: Result) -> Optional[float]:
        if result.tokens_per_second is None or baseline.tokens_per_second is None:
            return None
        return result.tokens_per_second / baseline.tokens_per_second

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
    columns += [
        Column("tokens_per_second", "tokens/s", lambda r: r.tokens_per_second, speed, 1),
        Column("relative_speed", "speed", relative, _fixed(relative, 2, "x"), 1),
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
        lines.append(f"| {_escape(result.name, '|')} | " + " | ".join(row) + " |")
    return "\n".join([*lines, "", *(f"{note}  " for note in notes(results)), ""])


def to_csv(results: Sequence[Result]) -> str:
    """Exact values, one run a line."""
    columns = columns_of(results)
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(["run", *(column.key for column in columns), "bleu_p", "chrf_p"])
    for result in results:
        found: Dict[str, float] = result.scores.get("significance") or {}
        writer.writerow(
            [
                result.name,
                *(column.value(result) for column in columns),
                found.get("bleu_p"),
                found.get("chrf_p"),
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
        lines.append(" & ".join([_tex(result.name), *(_tex(cell) for cell in row)]) + " \\\\")
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
    protocols = {_protocol(result.latency) for result in results if result.latency is not None}
    for protocol in sorted(protocols):
        lines.append(f"tokens/s: {protocol}.")
    if sum(result.latency is not None for result in results) > 1:
        lines.append(
            "speed: ratio of those means; they are from measurements one after the other, and "
            "machines drift. fairseq-ffn compare-latency measures the models in turn."
        )
    if len(protocols) > 1:
        lines.append("The speeds were measured in different ways and can't be compared.")
    if any(result.costs is not None for result in results):
        lines.append(
            "body: parameters without embeddings and output projection; multiply-adds: matrix "
            "products per source and target token together, without attention scores and output "
            "projection."
        )
    return lines


def _protocol(record: Dict[str, object]) -> str:
    protocol = record["protocol"]
    batch = (
        f"batch {protocol['batch_size']}"
        if protocol["batch_size"]
        else f"batches of {protocol['max_tokens']} tokens"
    )
    threads = protocol["threads"]
    return (
        f"{batch}, beam {protocol['beam']}, {protocol['device']}, {threads} "
        f"thread{'s' if threads > 1 else ''}, {protocol['dtype']}, mean and standard deviation of "
        f"{protocol['runs']} runs over {record['sentences']} sentences"
    )


def _fixed(
    value: Callable[[Result], Optional[float]], digits: int, unit: str = ""
) -> Callable[[Result], str]:
    return lambda result: f"{value(result):.{digits}f}{unit}"


def _escape(text: str, letters: str) -> str:
    return "".join(f"\\{letter}" if letter in letters else letter for letter in text)


def _tex(text: str) -> str:
    text = text.replace("\\", "\\textbackslash ")
    text = _escape(text, "%_&#${}")
    return text.replace("±", "$\\pm$").replace("†", "$^\\dagger$").replace("~", "\\textasciitilde ")
