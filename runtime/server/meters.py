"""What ``/metrics`` tells, in Prometheus' text format."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from runtime.messages import Ended, Gauges

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)


class Meters:
    """Counters of one API server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "servetwin_requests", "HTTP requests for completions, by how they ended.", ["status"], registry=registry
        )
        self._prompt = Counter("servetwin_prompt_tokens", "Prompt tokens of requests that ended.", registry=registry)
        self._cached = Counter("servetwin_cached_prompt_tokens", "Those found in the prefix cache.", registry=registry)
        self._output = Counter("servetwin_output_tokens", "Output tokens of requests that ended.", registry=registry)
        self._ttft = Histogram(
            "servetwin_time_to_first_token_seconds",
            "From received to the first token's commit.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._e2e = Histogram(
            "servetwin_e2e_request_latency_seconds",
            "From received to the last byte sent.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._waiting = Gauge("servetwin_sequences_waiting", "Sequences queued.", registry=registry)
        self._running = Gauge("servetwin_sequences_running", "Sequences admitted.", registry=registry)
        self._pages = Gauge(
            "servetwin_kv_pages", "Pages of KV memory, by who holds them.", ["state"], registry=registry
        )

    def ended(self, status: str, begun_s: float, ends: Iterable[Ended]) -> None:
        """An HTTP request has ended.

        Args:
            status: ok, aborted or rejected.
            begun_s: When it came, monotonic.
            ends: Its choices that ended.
        """
        self._requests.labels(status).inc()
        if status == "ok":
            self._e2e.observe(time.monotonic() - begun_s)
        for end in ends:
            self._prompt.inc(end.prompt_tokens)
            self._cached.inc(end.cached_tokens)
            self._output.inc(end.output_tokens)
            if not math.isnan(end.first_token_s):
                self._ttft.observe(end.first_token_s - end.received_s)

    def text(self, gauges: Gauges) -> bytes:
        """All of it, with the scheduler's state of this moment."""
        self._waiting.set(gauges.waiting)
        self._running.set(gauges.running)
        for state, pages in pages_by_state(gauges).items():
            self._pages.labels(state).set(pages)
        return generate_latest(self._registry)


def pages_by_state(gauges: Gauges) -> dict[str, int]:
    """Who holds KV pages: nobody, the prefix cache alone, running sequences."""
    return {
        "free": gauges.pages_free,
        "cached": gauges.pages_cached,
        "running": gauges.pages - gauges.pages_free - gauges.pages_cached,
    }
