"""Decoding speed of our models against stock fairseq and CTranslate2, engines in turn.

    bash scripts/bench_decode.sh                      all rows, then the tables
    bash scripts/bench_decode.sh --rows batch1-t1     one row

Models have random weights and a forced length of output, so nothing needs to be trained. For each
batch all engines of a row decode in turn, in an order drawn anew; ratios have a 95% interval
(bootstrap over batches). Each row is a file in the output folder; one that is there isn't measured
again. CTranslate2 (``pip install ctranslate2``) takes the models through our export.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf

from fairseq_ffn.cli.arguments import positive
from fairseq_ffn.decoding.candidates import (
    LoadedModel,
    build_untrained,
    random_batches,
    task_of_size,
)
from fairseq_ffn.decoding.fast_search import search_class
from fairseq_ffn.decoding.measured_generator import decode, measured
from fairseq_ffn.decoding.products import KERNELS, activations_of
from fairseq_ffn.errors import run_script
from fairseq_ffn.export.ctranslate2_model import import_ctranslate2, write_ctranslate2
from fairseq_ffn.files import write_json
from fairseq_ffn.latency.clock import Clock
from fairseq_ffn.latency.comparison import Candidate, Interleaved
from fairseq_ffn.latency.machine import machine, versions
from fairseq_ffn.latency.measurement import Decoded

BEAM = 5
VOCABULARY = 32000
LENGTH = 25
CONFIGS = ("baseline", "shared_enc_no_dec", "one_wide")
LAYOUTS = (
    "baseline",
    "shared_enc",
    "shared_dec",
    "no_dec",
    "shared_enc_no_dec",
    "shared_enc_no_dec 24576",
    "no_enc_no_dec",
    "one_wide",
    "parallel",
)
PRECISIONS = ("float32", "bfloat16", "int8")
STOCK = "stock fairseq"
DEVICE = torch.device("cpu")


class Engines:
    """Everything that decodes, built when it is first asked for.

    Args:
        size: of the architectures.
        folder: for exported models.
        batches: in place of each row's own number.
    """

    def __init__(self, size: str, folder: Path, batches: Optional[int] = None):
        self.size, self.folder, self.batches = size, folder, batches
        self.task = task_of_size(VOCABULARY)
        self.clock = Clock(DEVICE)
        self._plain: Dict[str, LoadedModel] = {}
        self._fast: Dict[Tuple[str, str], LoadedModel] = {}
        self._translators: Dict[Tuple[str, str, int], Any] = {}

    def plain(self, config: str) -> LoadedModel:
        """The model as it is built; a number after ``config`` is the encoder FFN's width."""
        if config not in self._plain:
            name, _, width = config.partition(" ")
            arch = f"transformer_ffn_{self.size}_{name}"
            flags = ["--encoder-ffn-embed-dim", width] if width else []
            self._plain[config] = build_untrained([arch], self.task, flags=flags)[0]
            self._plain[config].to_device(DEVICE, half=False)
        return self._plain[config]

    def model(self, config: str, inference: str) -> Any:
        """The model prepared for inference; its weights are those of the plain one."""
        key = (config, inference)
        if key not in self._fast:
            plain = self.plain(config).model
            model = copy.copy(plain)
            model.__dict__.update(_modules=dict(plain._modules), args=copy.copy(plain.args))
            model.args.inference = inference
            model.prepare_for_inference_(_config(LENGTH))
            self._fast[key] = model
        return self._fast[key]

    def ours(self, config: str, inference: str, length: int) -> Callable[[dict], Decoded]:
        """fairseq with our plugin; ``plain`` is stock fairseq's own path."""
        model, options = self.model(config, inference), _config(length).generation
        kind = search_class(options, [model], VOCABULARY, logging.DEBUG)
        generator = self.task.build_generator([model], options, seq_gen_cls=kind)
        generator = measured(generator, self.clock)
        return lambda batch: decode(generator, [model], batch)

    def ctranslate2(
        self, config: str, kind: str, length: int, threads: int
    ) -> Callable[[dict], Decoded]:
        """CTranslate2 on the same weights."""
        key = (config, kind, threads)
        if key not in self._translators:
            path = self.folder / f"{self.size}.{config}.{kind}"
            if not path.exists():
                dictionary = self.task.source_dictionary
                source = self.plain(config).model
                write_ctranslate2(source, dictionary, dictionary, str(path), kind)
            self._translators[key] = import_ctranslate2().Translator(
                str(path), device="cpu", compute_type=kind, intra_threads=threads
            )
        translator, dictionary = self._translators[key], self.task.source_dictionary

        def run(batch: dict) -> Decoded:
            sources = [
                [dictionary[word] for word in words if word not in (dictionary.pad(),)][:-1]
                for words in batch["net_input"]["src_tokens"].tolist()
            ]
            results = translator.translate_batch(
                sources,
                beam_size=BEAM,
                min_decoding_length=length,
                max_decoding_length=length,
                max_batch_size=0,
            )
            tokens = sum(len(result.hypotheses[0]) for result in results)
            return Decoded(results, len(results), tokens, None, length)

        return run


def _config(length: int) -> Any:
    config = OmegaConf.structured(FairseqConfig())
    config.generation.beam = BEAM
    config.generation.max_len_a = 0
    config.generation.max_len_b = config.generation.min_len = length
    return config


def stock_of(size: str, engines: Engines, length: int) -> Callable[[dict], Decoded]:
    """Our baseline on fairseq's own path, which is fairseq's Transformer to the bit."""
    return engines.ours("baseline", "plain", length)


def compare(
    candidates: Dict[str, Callable[[dict], Decoded]],
    batch_size: int,
    source: int,
    count: int,
    rounds: int,
    engines: Engines,
    warmup: int = 1,
) -> Dict[str, Any]:
    """Interleaved; tokens/s, encoder's share and all ratios."""
    dictionary = engines.task.source_dictionary
    count = engines.batches or count
    batches = random_batches(dictionary, [source], batch_size, count, DEVICE)
    run = Interleaved([Candidate(*one) for one in candidates.items()], batches, rounds)
    run.run(engines.clock, warmup=warmup)
    return {
        "batch_size": batch_size,
        "source": source,
        "batches": count,
        "rounds": rounds,
        "engines": {
            name: {
                **run.tokens_per_second(number),
                "median": _median(run, number),
                "encoder_share": run.encoder_share(number),
            }
            for number, name in enumerate(candidates)
        },
        "ratios": [asdict(ratio) for ratio in run.ratios()],
    }


def _median(run: Interleaved, number: int) -> float:
    speeds = [timed.tokens / timed.seconds for one in run.timed[number] for timed in one]
    return float(torch.tensor(speeds).median())


def row_batch1(engines: Engines, threads: int) -> Dict[str, Any]:
    """Batch 1: all engines."""
    candidates = {STOCK: stock_of(engines.size, engines, LENGTH)}
    for config in CONFIGS:
        for kind in ("float32", "int8"):
            name = f"CTranslate2 {config} {kind}"
            candidates[name] = engines.ctranslate2(config, kind, LENGTH, threads)
        for precision in PRECISIONS:
            candidates[f"ours {config} {precision}"] = engines.ours(config, precision, LENGTH)
    return compare(candidates, 1, LENGTH, 10, 1, engines)


def row_batch(batch_size: int) -> Callable[[Engines, int], Dict[str, Any]]:
    """Larger batches, fp32."""

    def run(engines: Engines, threads: int) -> Dict[str, Any]:
        candidates = {
            STOCK: stock_of(engines.size, engines, LENGTH),
            "ours baseline float32": engines.ours("baseline", "float32", LENGTH),
        }
        return compare(candidates, batch_size, LENGTH, 3, 1, engines, warmup=0)

    return run


def row_length(engines: Engines, threads: int) -> Dict[str, Any]:
    """Output of 200 tokens against one of 25."""
    candidates = {
        f"ours baseline {precision}, {length} tokens": engines.ours("baseline", precision, length)
        for precision in ("float32", "int8")
        for length in (LENGTH, 200)
    }
    return compare(candidates, 1, LENGTH, 3, 1, engines)


def row_sources(engines: Engines, threads: int) -> Dict[str, Any]:
    """One Wide against the baseline over source length; output as long as the source."""
    tables = {}
    for length in (10, 25, 50, 100):
        candidates = {
            f"ours {config} {precision}": engines.ours(config, precision, length)
            for config in ("baseline", "one_wide")
            for precision in PRECISIONS
        }
        tables[str(length)] = compare(candidates, 1, length, 5, 1, engines)
    return {"lengths": tables}


def row_layouts(engines: Engines, threads: int) -> Dict[str, Any]:
    """Where FFNs may be left out: every layout, one precision of floats and int8."""
    candidates = {
        f"ours {config} {precision}": engines.ours(config, precision, LENGTH)
        for precision in ("float32", "int8")
        for config in LAYOUTS
    }
    return compare(candidates, 1, LENGTH, 8, 1, engines)


def row_encoder(engines: Engines, threads: int) -> Dict[str, Any]:
    """The encoder's rate against that of one large matrix product, in GFLOP/s."""
    found: Dict[str, Any] = {}
    for precision in PRECISIONS:
        # the second: weights that no cache holds, a few rows, which is what a wide FFN is
        shapes = {(rows, out): f"{rows} x 1024 -> {out}" for rows, out in LARGE_PRODUCTS}
        found[precision] = {
            f"{shape}, {kernel.name}": _rate(kernel, precision, *sizes)
            for sizes, shape in shapes.items()
            for kernel in KERNELS[precision]
        }
        peak = max(
            rate
            for name, rate in found[precision].items()
            if name.startswith(shapes[LARGE_PRODUCTS[0]])
        )
        for config in ("baseline", "one_wide"):
            encoder = engines.model(config, precision).encoder
            for length in (10, LENGTH, 100):
                words = engines.task.source_dictionary
                batch = random_batches(words, [length], 1, 1, DEVICE)[0]["net_input"]
                flops = _encoder_flops(encoder, length + 1)
                with torch.no_grad():
                    seconds = _best(partial(encoder.forward_torchscript, batch))
                rate = flops / seconds / 1e9
                found[precision][f"{config}, {length} tokens"] = {
                    "gflops": rate,
                    "ms": 1e3 * seconds,
                    "of the large product": rate / peak,
                }
    return found


def _encoder_flops(encoder: Any, rows: int) -> float:
    """Of the matrix products with weights, for ``rows`` tokens, end of sentence counted."""
    weights = sum(
        module.weight.numel()
        for layer in encoder.plain.layers
        for module in layer.modules()
        if isinstance(module, torch.nn.Linear)
    )
    return 2.0 * rows * weights


def _rate(kernel: Any, precision: str, rows: int, out: int, size: int = 1024) -> float:
    """GFLOP/s of one product."""
    x = torch.randn(rows, size).to(activations_of(precision))
    product = kernel.pack(torch.randn(out, size), None, False, rows)
    return 2.0 * rows * size * out / _best(lambda: product(x)) / 1e9


def _best(run: Callable[[], Any], seconds: float = 0.7) -> float:
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best


def row_limit(engines: Engines, threads: int) -> Dict[str, Any]:
    """Bytes of weights that a step reads, over the copy and read bandwidth of this machine."""
    source = torch.randn(64 * 2**20)
    target = torch.empty_like(source)
    size = 4.0 * source.numel()
    copied = 2 * size / _best(lambda: target.copy_(source))
    read = size / _best(lambda: source.sum())
    bytes_of = {"float32": 4, "bfloat16": 2, "int8": 1}
    found: Dict[str, Any] = {"copy_gb_s": copied / 1e9, "read_gb_s": read / 1e9}
    for config in CONFIGS:
        decoder = engines.plain(config).model.decoder
        weights = decoder.output_projection.weight.numel() + sum(
            module.weight.numel()
            for layer in decoder.layers
            for name, module in layer.named_modules()
            if isinstance(module, torch.nn.Linear)
            # the source's keys and values are made once
            and name not in ("encoder_attn.k_proj", "encoder_attn.v_proj")
        )
        for precision in PRECISIONS:
            step = weights * bytes_of[precision]
            found[f"{config} {precision}"] = {
                "mb_a_step": step / 1e6,
                "steps_per_second": copied / step,
            }
    return found


ROWS: Dict[str, Tuple[int, Callable[[Engines, int], Dict[str, Any]]]] = {
    **{f"batch1-t{threads}": (threads, row_batch1) for threads in (1, 2)},
    **{f"limit-t{threads}": (threads, row_limit) for threads in (1, 2)},
    **{f"encoder-t{threads}": (threads, row_encoder) for threads in (1, 2)},
    "length-t1": (1, row_length),
    **{f"batch{size}-t2": (2, row_batch(size)) for size in (8, 32, 64)},
    **{f"sources-t{threads}": (threads, row_sources) for threads in (1, 2)},
    "layouts-t1": (1, row_layouts),
}

#: rows and outputs of the products that an encoder's rate is held against
LARGE_PRODUCTS = ((2048, 4096), (LENGTH + 1, 49152))
_BATCH1 = ("batch1-t1", "batch1-t2")
#: rows, what is measured, against what, and the least ratio of speeds that we aim at
GOALS: Tuple[Tuple[Tuple[str, ...], str, str, float], ...] = (
    (_BATCH1, "ours baseline float32", STOCK, 2.5),
    (_BATCH1, "ours baseline float32", "CTranslate2 baseline float32", 1.3),
    (_BATCH1, "ours baseline bfloat16", "CTranslate2 baseline float32", 2.0),
    (_BATCH1, "ours baseline int8", "CTranslate2 baseline int8", 1.6),
    (_BATCH1, "ours shared_enc_no_dec int8", "CTranslate2 shared_enc_no_dec int8", 1.6),
    (_BATCH1, "ours shared_enc_no_dec float32", "ours baseline float32", 1.5),
    (_BATCH1, "ours shared_enc_no_dec int8", "ours baseline int8", 1.3),
    (("batch8-t2", "batch32-t2", "batch64-t2"), "ours baseline float32", STOCK, 1.3),
    *(
        (
            ("length-t1",),
            f"ours baseline {precision}, 200 tokens",
            f"ours baseline {precision}, {LENGTH} tokens",
            0.8,
        )
        for precision in ("float32", "int8")
    ),
)


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Measure what is missing, print all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", help=f"some of {','.join(ROWS)} (default: all)")
    parser.add_argument("--size", default="big", help="of the architectures (default: big)")
    parser.add_argument("--output", default="runs/bench_decode", help="folder of the results")
    parser.add_argument("--batches", type=positive, help="a row (default: its own number)")
    args = parser.parse_args(arguments)
    names = args.rows.split(",") if args.rows else list(ROWS)
    for name in names:
        if name not in ROWS:
            parser.error(f"--rows {name}: use some of {', '.join(ROWS)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output = Path(args.output) / args.size
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        engines = Engines(args.size, Path(folder), args.batches)
        for name in names:
            path = output / f"{name}.json"
            if path.exists():
                continue
            threads, row = ROWS[name]
            torch.set_num_threads(threads)
            begin = time.monotonic()
            result = row(engines, threads)
            seconds = round(time.monotonic() - begin, 1)
            facts = {"machine": machine(DEVICE), "versions": versions(), "seconds": seconds}
            write_json(path, {"row": name, "threads": threads, "result": result, **facts})
            logging.info(f"{name}: measured in {seconds:.0f} s")
    records = {name: json.loads((output / f"{name}.json").read_text()) for name in names}
    for name, record in records.items():
        print(f"\n## {name} ({record['threads']} threads, {record['machine']['cpu']})\n")
        print("\n".join(table(record["result"])))
    reached = goals({name: record["result"] for name, record in records.items()})
    if len(reached) > 2:
        print("\n## goals\n")
        print("\n".join(reached))


def table(result: Dict[str, Any]) -> List[str]:
    """Markdown of one row."""
    if "lengths" in result:
        return [
            line
            for length, one in result["lengths"].items()
            for line in (f"source and output {length} tokens:", "", *table(one), "")
        ]
    if "engines" not in result:
        return [f"* {name}: {_facts(value)}" for name, value in result.items()]
    names = list(result["engines"])
    lines = ["| engine | tokens/s | encoder | against the first | ", "| --- | --- | --- | --- |"]
    for name in names:
        one = result["engines"][name]
        share = "" if one["encoder_share"] is None else f"{100 * one['encoder_share']:.0f}%"
        against = [r for r in result["ratios"] if (r["name"], r["baseline"]) == (name, names[0])]
        lines.append(
            f"| {name} | {one['median']:.1f} | {share} | {_ratio(against[0]) if against else ''} |"
        )
    return lines


def goals(results: Dict[str, Dict[str, Any]]) -> List[str]:
    """Markdown of what was aimed at and reached; rows that weren't measured are left out."""
    lines = ["| speed of | against | threads | goal | ratio |", "| --- | --- | --- | --- | --- |"]
    for rows, ours, peer, goal in GOALS:
        for row in rows:
            if row not in results:
                continue
            [ratio] = [
                one
                for one in results[row]["ratios"]
                if {one["name"], one["baseline"]} == {ours, peer}
            ]
            # a ratio is of the later one to the earlier one
            if ratio["name"] == peer:
                ratio = {
                    "ratio": 1 / ratio["ratio"],
                    "low": ratio["high"] and 1 / ratio["high"],
                    "high": ratio["low"] and 1 / ratio["low"],
                }
            batch = "" if row.startswith(("batch1-", "length")) else f", {row.split('-')[0]}"
            lines.append(f"| {ours}{batch} | {peer} | {ROWS[row][0]} | {goal} | {_ratio(ratio)} |")
    return lines


def _ratio(ratio: Dict[str, Any]) -> str:
    interval = "" if ratio["low"] is None else f" [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    return f"{ratio['ratio']:.2f}{interval}"


def _facts(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_facts(one)}" for name, one in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_script(main)
