"""The inference engine: requests join and leave one running batch (continuous batching).

One thread does all the computing. Each request has a slot of the key-value cache. Those being decoded occupy
the first slots without a gap, so that a step is one forward pass over a view of the cache; when one leaves,
the last one moves into its slot.

Shapes: B requests being decoded, L tokens of a prompt, D width of the model, V vocabulary.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection

import torch
from tokenizers import Tokenizer
from torch import Tensor

from groundup.deploy.interface import BusyError, ClosedError, Event, Finish, Handle, Request
from groundup.deploy.text import Detokenizer, StopStrings
from groundup.models.cache import KeyValueCache
from groundup.models.decoder import Decoder
from groundup.models.sampling import choose, uniforms

log = logging.getLogger(__name__)

_RATE_SECONDS = 10.0


class _Job:
    """A request on its way."""

    def __init__(self, request: Request, deliver: Callable[[Event], None], tokenizer: Tokenizer) -> None:
        self.request, self._deliver = request, deliver
        self.cancelled = False
        self.seen = 0  # tokens whose keys and values are in the cache
        self.chosen: list[int] = []
        self._text = Detokenizer(tokenizer, request.prompt_ids)
        self._stop = StopStrings(request.stop)
        first = len(request.prompt_ids)
        self._uniforms = uniforms(request.seed, request.choice, first, first + request.max_tokens).tolist()

    def cancel(self) -> None:
        self.cancelled = True

    @property
    def uniform(self) -> float:
        """The random number of the token to be chosen next."""
        return float(self._uniforms[len(self.chosen)])

    def take(self, token: int, stop_ids: Collection[int]) -> Event:
        """What follows from the next token."""
        if token in stop_ids:
            return self._last(None, "stop", "")
        self.chosen.append(token)
        text, stopped = self._stop.add(self._text.add(token))
        if stopped:
            return Event(text, token, "stop")
        if len(self.chosen) == self.request.max_tokens:
            return self._last(token, "length", text)
        return Event(text, token)

    def _last(self, token: int | None, finish: Finish, text: str) -> Event:
        rest, stopped = self._stop.add(self._text.finish())
        return Event(text + rest + self._stop.finish(), token, "stop" if stopped else finish)

    def tell(self, event: Event) -> None:
        try:
            self._deliver(event)
        except Exception:
            log.exception("a request's events can't be delivered; the request is dropped")
            self.cancelled = True


class BatchingEngine:
    """Continuous batching of one decoder. Its thread runs from construction until `close`.

    slots: requests decoded at the same time; each takes a cache for the whole context. max_waiting: requests
    that may wait for a slot. stop_ids: tokens that end a text. Prompts are computed one at a time, between
    two decoding steps. A request's tokens do not depend on its neighbours, except where two tokens are so
    close that the rounding of a product over another number of rows decides.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        *,
        slots: int,
        max_waiting: int,
        stop_ids: Collection[int] = (),
    ) -> None:
        self._decoder, self._tokenizer, self._stop_ids = decoder.eval(), tokenizer, frozenset(stop_ids)
        # Rows of the embedding beyond the tokenizer's entries stand for no text.
        self._known = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self._device = decoder.embedding.weight.device
        self.context_length = decoder.model.context_length
        self.slots, self.capacity = slots, slots + max_waiting
        self._cache = KeyValueCache(
            decoder.model, slots, self.context_length, decoder.embedding.weight.dtype, self._device
        )
        self._active: list[_Job] = []  # job i has slot i; touched by the thread only
        self._waiting: deque[_Job] = deque()
        self._inside = 0  # jobs taken in and not ended
        self._requests = self._tokens = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="groundup-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, deliver: Callable[[Event], None]) -> Handle:
        length = len(request.prompt_ids)
        if length < 1 or request.max_tokens < 1 or length + request.max_tokens > self.context_length:
            raise ValueError(
                f"{length} prompt tokens and {request.max_tokens} new ones; at least one of each is needed, "
                f"and together at most {self.context_length}"
            )
        job = _Job(request, deliver, self._tokenizer)
        with self._changed:
            if self._closing:
                raise ClosedError("the engine is shutting down")
            if self._inside >= self.capacity:
                raise BusyError(f"{self._inside} requests are in hand already")
            self._inside += 1
            self._requests += 1
            self._waiting.append(job)
            self._changed.notify()
        return job

    @property
    def running(self) -> bool:
        return not self._closing and self._thread.is_alive()

    def stats(self) -> dict[str, float]:
        """Requests and tokens since the start, what is in hand, tokens per second over the last ten
        seconds."""
        with self._changed:
            self._forget_old(time.monotonic())
            waiting = len(self._waiting)
            return {
                "slots": self.slots,
                "active": self._inside - waiting,
                "waiting": waiting,
                "requests": self._requests,
                "tokens": self._tokens,
                "tokens_per_second": round(sum(count for _, count in self._recent) / _RATE_SECONDS, 1),
            }

    def close(self) -> None:
        """End all requests with an error that says so, and the thread; returns when it has ended."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._turn():
                    pass
        finally:
            with self._changed:
                self._closing = True
                left = [*self._active, *self._waiting]
                self._active.clear()
                self._waiting.clear()
            for job in left:
                self._end(job, Event("", None, "error", "The server is shutting down."))

    def _turn(self) -> bool:
        """Wait for work, admit one request if there is room, compute one token of each; False when
        closing."""
        with self._changed:
            while not (self._closing or self._waiting or self._active):
                self._changed.wait()
            if self._closing:
                return False
            dropped = [job for job in self._waiting if job.cancelled]
            if dropped:
                self._waiting = deque(job for job in self._waiting if not job.cancelled)
            room = len(self._active) < self.slots
            job = self._waiting.popleft() if self._waiting and room else None
        for cancelled in dropped:
            self._end(cancelled, Event("", None, "cancelled"))
        if job is not None:
            self._admit(job)
        self._step()
        return True

    def _admit(self, job: _Job) -> None:
        """Compute the prompt in the first free slot and choose the first token."""
        row, ids = len(self._active), job.request.prompt_ids
        self._active.append(job)
        try:
            positions_BL = torch.arange(len(ids), device=self._device)[None]
            self._forward(row, torch.tensor([list(ids)], device=self._device), positions_BL, len(ids))
        except Exception as error:
            self._fail(row, error)

    def _step(self) -> None:
        """The next token of every request in hand, in one forward pass."""
        for row in reversed(range(len(self._active))):
            if self._active[row].cancelled:
                self._leave(row, Event("", None, "cancelled"))
        if not self._active:
            return
        try:
            tokens_B1 = torch.tensor([[job.chosen[-1]] for job in self._active], device=self._device)
            positions_B1 = torch.tensor([[job.seen] for job in self._active], device=self._device)
            self._forward(0, tokens_B1, positions_B1, max(job.seen for job in self._active) + 1)
        except Exception as error:
            self._fail(0, error)

    def _forward(self, first: int, tokens_BL: Tensor, positions_BL: Tensor, seen: int) -> None:
        """Feed tokens to the slots from `first` on, and let each of their requests take its next token."""
        jobs = self._active[first:]
        cache = self._cache.rows(first, first + len(jobs))
        x_BD = self._decoder(tokens_BL, positions_BL, cache=cache, seen=seen).x_BLD[:, -1]
        logits_BV = self._decoder.logits(x_BD)[:, : self._known]
        finite_B = logits_BV.isfinite().all(-1).tolist()
        settings = [job.request for job in jobs]
        ids_B = choose(
            logits_BV.nan_to_num(),
            torch.tensor([r.temperature for r in settings], device=self._device),
            torch.tensor([r.top_k for r in settings], device=self._device),
            torch.tensor([r.top_p for r in settings], device=self._device),
            torch.tensor([job.uniform for job in jobs], dtype=torch.float64, device=self._device),
        ).tolist()
        now = time.monotonic()
        with self._changed:
            self._tokens += len(jobs)
            self._recent.append((now, len(jobs)))
            self._forget_old(now)
        # From the back, so that what moves into a slot that was left has had its turn.
        for row in reversed(range(first, first + len(jobs))):
            job, token = self._active[row], ids_B[row - first]
            job.seen += tokens_BL.shape[1]
            if not finite_B[row - first]:
                self._leave(row, Event("", None, "error", "The model computed values that are not numbers."))
                continue
            event = job.take(token, self._stop_ids)
            if event.finish:
                self._leave(row, event)
            else:
                job.tell(event)

    def _fail(self, first: int, error: Exception) -> None:
        """The forward pass over the slots from `first` on was lost, and its requests with it."""
        log.error("the forward pass failed", exc_info=error)
        message = f"The model's forward pass failed ({type(error).__name__}); the server's log says more."
        for row in reversed(range(first, len(self._active))):
            self._leave(row, Event("", None, "error", message))

    def _leave(self, row: int, event: Event) -> None:
        """End the request of a slot; the last request moves into it."""
        job, last = self._active[row], self._active.pop()
        for buffer in (*self._cache.keys, *self._cache.values):
            if event.finish == "error":
                # Values that are not numbers would reach later requests from masked places: 0 x NaN = NaN.
                buffer[row].zero_()
            if last is not job:
                buffer[row, :, : last.seen] = buffer[len(self._active), :, : last.seen]
        if last is not job:
            self._active[row] = last
        self._end(job, event)

    def _end(self, job: _Job, event: Event) -> None:
        with self._changed:
            self._inside -= 1
        job.tell(event)

    def _forget_old(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - _RATE_SECONDS:
            self._recent.popleft()
