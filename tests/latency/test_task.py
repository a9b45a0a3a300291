"""The task in this process, driven as fairseq-generate drives it."""

from __future__ import annotations

import threading

import pytest
import torch
from fairseq.data import LanguagePairDataset
from fairseq.dataclass.configs import FairseqConfig
from helpers import SMALL, built_at_random, dictionary
from omegaconf import OmegaConf

from fairseq_ffn.latency.record import read_record, summary
from fairseq_ffn.tasks.translation_latency import TranslationLatencyConfig, TranslationLatencyTask

WORDS = dictionary()


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Sentences(LanguagePairDataset):
    """Ten sentences; notes which thread makes a batch of which sentences."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        lengths = [3 + number % 4 for number in range(10)]
        sources = [
            torch.cat([torch.randint(4, len(WORDS), (n,), generator=generator), torch.tensor([2])])
            for n in lengths
        ]
        sizes = [n + 1 for n in lengths]
        super().__init__(sources, sizes, WORDS, sources, sizes, WORDS, shuffle=False)
        self.made = []

    def collater(self, samples, *args, **kwargs):
        self.made.append((threading.current_thread(), [sample["id"] for sample in samples]))
        return super().collater(samples, *args, **kwargs)


class Driven:
    """fairseq-generate's loop."""

    def __init__(self, report=None, dtype=torch.float32, sizes=None, **settings):
        settings = {"latency_runs": 1, "latency_warmup": 0, "latency_threads": 0, **settings}
        cfg = TranslationLatencyConfig(
            checkpoint="a.pt", world_size=1, latency_report=report and str(report), **settings
        )
        self.task = TranslationLatencyTask(cfg, WORDS, WORDS)
        self.dataset = Sentences()
        self.model = built_at_random("transformer_ffn", dtype=dtype, **SMALL)
        self.decoded = []
        encode = self.model.encoder.forward_torchscript
        self.model.encoder.forward_torchscript = lambda source: self._note(source) or encode(source)
        iterator = self.task.get_batch_iterator(
            self.dataset, **(sizes or {"max_sentences": 2}), num_workers=1, data_buffer_size=10
        ).next_epoch_itr(shuffle=False)
        generation = OmegaConf.structured(FairseqConfig()).generation
        generation.beam, generation.max_len_b = 2, 3
        generator = self.task.build_generator([self.model], generation)
        self.warm = len(self.decoded)
        self.outputs = [
            self.task.inference_step(generator, [self.model], sample) for sample in iterator
        ]

    def _note(self, source):
        self.decoded.append(source["src_tokens"].tolist())


def test_batches_are_made_in_this_thread_between_the_timers():
    driven = Driven()
    threads, sentences = zip(*driven.dataset.made)
    assert set(threads) == {threading.main_thread()}
    assert sorted(sum(sentences, [])) == list(range(10))


@pytest.mark.parametrize(("warmup", "expected"), [(0, 0), (1, 1), (7, 7)])
def test_so_many_batches_are_decoded_before_the_first_run(warmup, expected, tmp_path):
    driven = Driven(tmp_path / "latency.json", latency_warmup=warmup, latency_runs=2)
    assert driven.warm == expected
    assert len(driven.decoded) == expected + 2 * 5
    runs = driven.decoded[expected:]
    assert runs[:5] == runs[5:]
    assert all(batch in runs for batch in driven.decoded[:expected])
    record = read_record(tmp_path / "latency.json")
    assert record["protocol"]["warmup"] == warmup
    assert [len(run) for run in record["raw"]] == [5, 5]


@pytest.mark.parametrize("wanted", [1, 2])
def test_threads_are_those_asked_for(wanted, tmp_path):
    torch.set_num_threads(3 - wanted)
    Driven(tmp_path / "latency.json", latency_threads=wanted)
    assert torch.get_num_threads() == wanted
    assert read_record(tmp_path / "latency.json")["protocol"]["threads"] == wanted


def test_without_a_number_the_threads_stay_as_they_are(tmp_path):
    torch.set_num_threads(2)
    Driven(tmp_path / "latency.json", latency_threads=0)
    assert torch.get_num_threads() == 2
    assert read_record(tmp_path / "latency.json")["protocol"]["threads"] == 2


@pytest.mark.parametrize(
    ("sizes", "batch_size", "max_tokens", "text"),
    [
        ({"max_sentences": 2}, 2, None, "batch 2,"),
        ({"max_tokens": 12000, "max_sentences": None}, None, 12000, "batches of 12000 tokens"),
    ],
)
def test_the_record_has_the_batch_size_that_was_used(sizes, batch_size, max_tokens, text, tmp_path):
    Driven(tmp_path / "latency.json", sizes=sizes)
    record = read_record(tmp_path / "latency.json")
    protocol = record["protocol"]
    assert (protocol["batch_size"], protocol["max_tokens"]) == (batch_size, max_tokens)
    assert text in summary(record)[0]


def test_the_record_says_half_precision(tmp_path):
    Driven(tmp_path / "latency.json", dtype=torch.float16)
    record = read_record(tmp_path / "latency.json")
    assert record["protocol"]["dtype"] == "float16"
    assert ", float16, " in summary(record)[0]
