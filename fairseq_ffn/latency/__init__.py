"""Measuring decoding: clock, protocol, statistics and record. Knows nothing of fairseq.

A decode flows through it like this: ``measurement`` calls it under ``clock`` as ``protocol`` says,
``statistics`` makes figures of the raw values, ``record`` puts them into ``latency.json``.
``comparison`` is the paired form for several models in one process.
"""
