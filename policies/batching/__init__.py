"""Batching: how prefill and decode share a step, and the step's token budget. One file each."""

from policies.batching.base import DECODE, Batching, StepPlan
from policies.batching.chunked import Chunked
from policies.batching.decode_first import DecodeFirst
from policies.batching.prefill_first import PrefillFirst
from policies.batching.slo_chunked import SloChunked

__all__ = ["DECODE", "Batching", "Chunked", "DecodeFirst", "PrefillFirst", "SloChunked", "StepPlan"]
