"""Our own server without HTTP: straight to its tokenizers, and back from its detokenizer."""

from __future__ import annotations

import math

from harness.live.player import Finish, News, ServerGoneError, Transport
from harness.metrics.request_log import Counts
from harness.metrics.schema import MOMENTS
from harness.workload import Workload
from runtime.engine.params import SamplingParams
from runtime.messages import Ended, Request, TokenPrompt, id_bytes
from runtime.server.client import Client
from runtime.server.launch import Server, ServerDiedError
from traces.prompts import PromptMaker


class DirectTransport(Transport):
    """Requests as token ids, over the server's own sockets.

    Args:
        server: Started, without HTTP.
        client: Its client.
        workload: What is sent.
        prompts: Makes the token ids.
        foretell: Tell the server the output, so that what it caches and when it ends are the trace's; else it samples
            greedily up to the trace's output length.
    """

    def __init__(
        self, server: Server, client: Client, workload: Workload, prompts: PromptMaker, *, foretell: bool
    ) -> None:
        self._server = server
        self._client = client
        self._trace = workload.trace
        self._prompts = prompts
        self._foretell = foretell
        self._prepared: dict[int, tuple[bytes, bytes | None]] = {}
        self._rows = {request_id: row for row, request_id in enumerate(workload.trace.request_id.tolist())}
        self._start_s = 0.0

    def prepare(self, row: int) -> None:
        if row not in self._prepared:
            output = id_bytes(self._prompts.output(row)) if self._foretell else None
            self._prepared[row] = id_bytes(self._prompts.prompt(row)), output

    def send(self, row: int, arrival_s: float, start_s: float) -> None:
        self.prepare(row)
        prompt, foretold = self._prepared.pop(row)
        trace = self._trace
        self._start_s = start_s
        self._client.send(
            Request(
                trace.request_id.item(row),
                self._client.name,
                TokenPrompt(prompt),
                trace.max_tokens.item(row) if self._foretell else trace.output_tokens.item(row),
                SamplingParams(temperature=0.0),
                ignore_eos=True,
                foretold=foretold,
                text=False,
                priority=trace.priority.item(row),
                deadline_s=start_s + arrival_s + trace.deadline_s.item(row),
                session_id=trace.session_id.item(row),
                client_id=trace.client_id.item(row),
                received_s=start_s + arrival_s,
            )
        )

    def receive(self, timeout_s: float) -> list[News]:
        pieces = self._client.receive(timeout_s)
        if not pieces:
            try:
                self._server.check()
            except ServerDiedError as error:
                raise ServerGoneError(str(error)) from error
        return [
            News(
                self._rows[piece.request_id],
                len(piece.tokens) // 4,
                None if piece.ended is None else self._finish(piece.ended),
            )
            for piece in pieces
        ]

    def close(self) -> None:
        self._client.close()

    def _finish(self, ended: Ended) -> Finish:
        *told, sent_back = MOMENTS
        moments = {moment: getattr(ended, moment) - self._start_s for moment in told}
        moments[sent_back] = moments["detokenized_s"]  # no API server in between
        return Finish(
            status={"error": "rejected", "abort": "aborted"}.get(ended.reason, "ok"),
            reason=ended.reason,
            error=ended.error,
            output_tokens=ended.output_tokens,
            counts=Counts(
                ended.cached_tokens, ended.chunks, ended.preemptions, ended.recomputed_tokens, ended.preempted_s
            )
            if not math.isnan(ended.scheduled_s)
            else Counts(),
            moments=moments,
        )
