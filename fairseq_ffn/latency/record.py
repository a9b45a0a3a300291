"""``latency.json``: one measured decode, from raw values to figures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from fairseq_ffn import records
from fairseq_ffn.latency import statistics
from fairseq_ffn.latency.measurement import Timed
from fairseq_ffn.latency.protocol import Protocol

SCHEMA = "fairseq_ffn.latency/1"


def build_record(
    runs: Sequence[Sequence[Timed]],
    peak_megabytes: Sequence[float],
    memory_kind: str,
    protocol: Protocol,
    checkpoint: str,
    arch: str,
    parameters: Dict[str, Optional[int]],
    versions: Dict[str, Optional[str]],
    machine: Dict[str, object],
    batches_of_set: Optional[int] = None,
) -> Dict[str, Any]:
    """The record of one measured decode.

    Args:
        runs: the timed batches of each run.
        peak_megabytes: of each run.
        memory_kind: what the peak is.
        protocol: how it was measured.
        checkpoint: path of the model, several with ':'.
        arch: name of the architecture.
        parameters: ``total`` and ``body`` (without embeddings and output projection; None if
            unknown).
        versions: software.
        machine: hardware.
        batches_of_set: batches in the whole set, if only some were timed.

    Returns:
        a dictionary for JSON. Times of batches are pooled over the runs; ``latency_ms`` counts
        each batch once, ``latency_ms_per_sentence`` once for each sentence in it, since a sentence
        is ready when its batch is.
    """
    totals = [_totals(run) for run in runs]
    pooled = [timed for run in runs for timed in run]
    milliseconds = [1000 * timed.seconds for timed in pooled]
    encoder = [timed.encoder_seconds for timed in pooled if timed.encoder_seconds is not None]
    known = [timed for timed in pooled if timed.steps and timed.encoder_seconds is not None]
    decoder_ms = None
    if known:
        decoding = sum(timed.seconds - timed.encoder_seconds for timed in known)
        decoder_ms = 1000 * decoding / sum(timed.steps for timed in known)
    return {
        "schema": SCHEMA,
        "checkpoint": checkpoint,
        "arch": arch,
        "parameters": parameters,
        "protocol": asdict(protocol),
        "tokens_per_second": statistics.over_runs([t["tokens"] / t["seconds"] for t in totals]),
        "sentences_per_second": statistics.over_runs(
            [t["sentences"] / t["seconds"] for t in totals]
        ),
        "latency_ms": statistics.spread(milliseconds),
        "latency_ms_per_sentence": statistics.spread(
            milliseconds, [timed.sentences for timed in pooled]
        ),
        "encoder_ms": 1000 * sum(encoder) / len(encoder) if encoder else None,
        "decoder_ms_per_step": decoder_ms,
        "peak_memory_mb": max(peak_megabytes),
        "peak_memory_kind": memory_kind,
        "tokens": totals[0]["tokens"],
        "sentences": totals[0]["sentences"],
        "batches": len(runs[0]),
        "batches_of_set": batches_of_set if batches_of_set is not None else len(runs[0]),
        "versions": versions,
        "machine": machine,
        "raw": [[timed.as_record() for timed in run] for run in runs],
    }


def summary(record: Dict[str, Any]) -> List[str]:
    """The record in a few lines that a person can read."""
    protocol, speed = record["protocol"], record["tokens_per_second"]
    latency = record["latency_ms_per_sentence"]
    spread = ""
    if speed["std"] is not None:
        low, high = speed["interval95"]
        spread = f" ± {speed['std']:.1f} (95% interval {low:.1f} to {high:.1f})"
    batch = (
        f"batch {protocol['batch_size']}"
        if protocol["batch_size"]
        else f"batches of {protocol['max_tokens']} tokens"
    )
    threads = protocol["threads"]
    lines = [
        f"{record['arch']}, {protocol['device']}, {threads} thread{'s' if threads > 1 else ''}, "
        f"{protocol['dtype']}, {batch}, beam {protocol['beam']}, "
        f"{len(speed['runs'])} run{'s' if len(speed['runs']) > 1 else ''} of "
        f"{record['sentences']} sentences",
        f"tokens/s     {speed['mean']:.1f}{spread}",
        f"sentences/s  {record['sentences_per_second']['mean']:.2f}",
        f"ms/sentence  mean {latency['mean']:.1f}, p50 {latency['p50']:.1f}, "
        f"p90 {latency['p90']:.1f}, p99 {latency['p99']:.1f}",
    ]
    if record["encoder_ms"] is not None and record["decoder_ms_per_step"] is not None:
        lines.append(
            f"of which     encoder {record['encoder_ms']:.2f} ms a batch, decoder and search "
            f"{record['decoder_ms_per_step']:.2f} ms a step"
        )
    lines.append(f"memory       {record['peak_memory_mb']:.0f} MB ({record['peak_memory_kind']})")
    if record["batches"] < record["batches_of_set"]:
        lines.append(
            f"timed        {record['batches']} of {record['batches_of_set']} batches, spread over "
            "the set"
        )
    return lines


def read_record(path: Path) -> Dict[str, Any]:
    """Read ``latency.json``; all that reports read of it is checked.

    Raises:
        UserError: it isn't one, of another schema, incomplete or damaged.
    """
    record = records.read_record(path, SCHEMA, "a latency record", "measure again")
    for key in ("checkpoint", "arch"):
        record[key].text()
    for key in ("tokens", "sentences"):
        record[key].count()
    for key in ("total", "body"):
        if (parameters := record["parameters"].optional(key)) is not None:
            parameters.count()
    speed = record["tokens_per_second"]
    speed["mean"].positive()
    if (std := speed.optional("std")) is not None:
        std.not_negative()
    protocol = record["protocol"]
    for key in ("threads", "beam", "runs"):
        protocol[key].count()
    for key in ("device", "dtype"):
        protocol[key].text()
    for key in ("batch_size", "max_tokens"):
        if (size := protocol.optional(key)) is not None:
            size.count()
    record["machine"]["cpu"].text()
    return record.value


def _totals(run: Sequence[Timed]) -> Dict[str, float]:
    return {
        name: sum(getattr(timed, name) for timed in run)
        for name in ("seconds", "tokens", "sentences")
    }
