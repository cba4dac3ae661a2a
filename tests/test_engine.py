"""The engine: batches that requests join and leave, and what becomes of requests that fail or can't be taken."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from groundup.data.tokens.tokenizer import Tokenizer
from groundup.deploy.engine import BatchingEngine
from groundup.deploy.interface import BusyError, ClosedError, Request
from groundup.models.decoder import Decoder, build_decoder
from groundup.models.sampling import generate
from tests.serving import (
    SHAPE,
    VOCABULARY,
    Running,
    decoder,
    one_thread,  # noqa: F401  a fixture
    tokenizer_in,
)

Start = Callable[..., BatchingEngine]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_in(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def start(tokenizer: Tokenizer) -> Iterator[Start]:
    """Starts engines, and closes them after the test."""
    engines = []

    def start(model: Decoder | None = None, **options: Any) -> BatchingEngine:
        options = {"slots": 4, "max_waiting": 8, **options}
        engines.append(BatchingEngine(model or decoder(), tokenizer.inner, **options))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


class Gate:
    """Holds the model's forward passes until it is opened, and counts them."""

    def __init__(self, model: Decoder) -> None:
        self.passes, self._open, self.batches = threading.Semaphore(0), threading.Event(), []
        self._reached = threading.Semaphore(0)
        model.register_forward_pre_hook(self._hold)

    def _hold(self, _: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        self.batches.append(tuple(arguments[0].shape))
        self._reached.release()
        if not self._open.is_set():
            assert self.passes.acquire(timeout=20)

    def wait_for_pass(self) -> None:
        """Until the engine stands before its next forward pass."""
        assert self._reached.acquire(timeout=20)

    def let(self, count: int) -> None:
        self.passes.release(count)

    def open(self) -> None:
        self._open.set()
        self.passes.release(1000)


def test_together_as_alone_and_as_plain_generation(start: Start) -> None:
    model = decoder()
    requests = [
        Request([1, 2, 3], 30, seed=5),
        Request(list(range(20, 60)), 20, temperature=0.7, top_k=20, seed=6),
        Request([9], 40, temperature=0.0),
        Request([9, 9], 25, top_p=0.8, seed=8),
        Request([7] * 11, 35, temperature=1.5, seed=9),
        Request([1, 2, 3], 30, seed=5, choice=1),
    ]
    engine = start(model, slots=4)
    together = [Running(engine, request) for request in requests]
    assert [running.wait().finish for running in together] == ["length"] * 6
    for request, running in zip(requests, together, strict=True):
        alone = Running(engine, request)
        alone.wait()
        assert alone.tokens == running.tokens
        assert alone.text == running.text
        if request.choice == 0:
            [plain] = generate(
                model,
                [list(request.prompt_ids)],
                max_new_tokens=request.max_tokens,
                temperature=request.temperature,
                top_k=request.top_k,
                top_p=request.top_p,
                seed=request.seed,
            )
            assert plain == running.tokens
    assert together[0].tokens != together[5].tokens
    stats = engine.stats()
    assert (stats["requests"], stats["active"], stats["waiting"]) == (12, 0, 0)
    assert stats["tokens"] == 2 * sum(request.max_tokens for request in requests)


def test_requests_are_decoded_in_one_pass_and_free_slots_are_filled(start: Start) -> None:
    model = decoder()
    gate = Gate(model)
    engine = start(model, slots=2)
    requests = [Running(engine, Request([1, 2, 3], count)) for count in (2, 4, 3)]
    gate.open()
    for running in requests:
        running.wait()
    prefills = [shape for shape in gate.batches if shape[1] == 3]
    steps = [shape for shape in gate.batches if shape[1] == 1]
    assert prefills == [(1, 3)] * 3
    assert max(steps) == (2, 1)
    # Six tokens beyond those of the prompts, computed in fewer passes.
    assert sum(rows for rows, _ in steps) == 6
    assert len(steps) < 6


def test_the_end_token_ends_a_text_and_is_no_part_of_it(start: Start) -> None:
    free = Running(start(), Request([1, 2], 12, seed=1))
    free.wait()
    stop = free.tokens[5]
    ended = Running(start(stop_ids=[stop]), Request([1, 2], 12, seed=1))
    assert ended.wait().finish == "stop"
    assert ended.tokens == free.tokens[: free.tokens.index(stop)]


def test_stop_strings_over_token_boundaries(start: Start) -> None:
    engine = start()
    free = Running(engine, Request([1, 2], 40, seed=4))
    free.wait()
    for begin, length in ((5, 1), (9, 2), (12, 4), (20, 6)):
        stop = free.text[begin : begin + length]
        ended = Running(engine, Request([1, 2], 40, seed=4, stop=("never there", stop)))
        assert ended.wait().finish == "stop"
        assert ended.text == free.text[: free.text.find(stop)]
    held = Running(engine, Request([1, 2], 40, seed=4, stop=(free.text[-3:] + "!",)))
    assert held.wait().finish == "length"
    assert held.text == free.text


def test_cancelling_frees_the_slot(start: Start) -> None:
    model = decoder()
    gate = Gate(model)
    engine = start(model, slots=1)
    long, waiting, last = (Running(engine, Request([1], 90, seed=seed)) for seed in range(3))
    gate.let(3)
    long.next()
    assert engine.stats()["active"] == 1
    assert engine.stats()["waiting"] == 2
    long.handle.cancel()
    waiting.handle.cancel()
    gate.open()
    assert long.wait().finish == "cancelled"
    assert len(long.tokens) < 10
    assert waiting.wait() == ("", None, "cancelled", "")
    assert last.wait().finish == "length"
    assert len(last.tokens) == 90
    long.handle.cancel()
    assert engine.stats()["active"] == 0


def test_who_leaves_does_not_disturb_who_stays(start: Start) -> None:
    """The last slot's request moves into the slot that was left, whichever it is."""
    engine = start(slots=4, max_waiting=40)
    requests = [Request([seed + 1] * (seed % 5 + 1), 5 + 7 * seed % 40, seed=seed) for seed in range(24)]
    together = [Running(engine, request) for request in requests]
    for running in together[::5]:
        running.handle.cancel()
    for n, running in enumerate(together):
        running.wait()
        if n % 5:
            alone = Running(engine, requests[n])
            alone.wait()
            assert alone.tokens == running.tokens


def test_no_more_requests_than_slots_and_waiting_room(start: Start) -> None:
    model = decoder()
    gate = Gate(model)
    engine = start(model, slots=2, max_waiting=3)
    taken = [Running(engine, Request([1], 3)) for _ in range(5)]
    with pytest.raises(BusyError):
        engine.submit(Request([1], 3), lambda event: None)
    gate.open()
    for running in taken:
        assert running.wait().finish == "length"
    assert Running(engine, Request([1], 3)).wait().finish == "length"


@pytest.mark.parametrize(("prompt", "new"), [([], 5), ([1], 0), ([1] * 90, 7)])
def test_what_does_not_fit_is_refused(start: Start, prompt: list[int], new: int) -> None:
    with pytest.raises(ValueError, match="together at most 96"):
        start().submit(Request(prompt, new), lambda event: None)


def test_the_whole_context_can_be_used(start: Start) -> None:
    running = Running(start(), Request([1] * 90, 6))
    assert running.wait().finish == "length"
    assert len(running.tokens) == 6


def test_a_failing_prompt_takes_nobody_with_it(start: Start) -> None:
    model = decoder()
    engine = start(model)

    def fail(_: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        if 13 in arguments[0] and arguments[0].shape[1] > 1:
            raise RuntimeError("no memory")

    model.register_forward_pre_hook(fail)
    good = Running(engine, Request([1, 2], 60, temperature=0))
    bad = Running(engine, Request([13, 13], 60))
    last = bad.wait()
    assert last.finish == "error"
    assert last.error == "The model's forward pass failed (RuntimeError); the server's log says more."
    assert good.wait().finish == "length"


def test_a_failing_step_fails_its_requests_and_not_the_engine(start: Start) -> None:
    model = decoder()
    engine, failing = start(model), threading.Event()

    def fail(_: Any, arguments: tuple[torch.Tensor, ...], output: Any) -> Any:
        if failing.is_set() and arguments[0].shape[1] == 1:
            raise RuntimeError("no memory")
        return output

    model.register_forward_hook(fail)
    before = Running(engine, Request([1, 2], 10, seed=2))
    before.wait()
    failing.set()
    lost = [Running(engine, Request([1, 2], 10, seed=2)) for _ in range(3)]
    assert [running.wait().finish for running in lost] == ["error"] * 3
    failing.clear()
    after = Running(engine, Request([1, 2], 10, seed=2))
    assert after.wait().finish == "length"
    assert after.tokens == before.tokens
    assert engine.stats()["active"] == 0


def test_values_that_are_not_numbers_reach_no_later_request(start: Start) -> None:
    """A long request makes the step look at places of the shorter one's slot that the failed one has filled."""
    model = decoder()
    with torch.no_grad():
        model.embedding.weight[13] = torch.nan
    engine = start(model, slots=2)
    good = Request([1, 2], 8, temperature=0)
    before = Running(engine, good)
    before.wait()
    gate = Gate(model)
    long = Running(engine, Request([1] * 60, 36, temperature=0))
    bad = Running(engine, Request([13] * 50, 10))
    after = Running(engine, good)
    gate.open()
    assert bad.wait().error == "The model computed values that are not numbers."
    assert after.wait().finish == "length"
    assert after.tokens == before.tokens
    assert long.wait().finish == "length"


def test_who_does_not_take_events_is_dropped(start: Start) -> None:
    engine, calls = start(), []

    def deliver(event: Any) -> None:
        calls.append(event)
        raise RuntimeError("the event loop is closed")

    engine.submit(Request([1], 90), deliver)
    assert Running(engine, Request([1], 20)).wait().finish == "length"
    assert len(calls) == 2  # the first token, and the end


def test_closing_ends_everything(start: Start) -> None:
    model = decoder()
    gate = Gate(model)
    engine = start(model, slots=1)
    running, waiting = Running(engine, Request([1], 90)), Running(engine, Request([1], 90))
    gate.wait_for_pass()
    closing = threading.Thread(target=engine.close)
    closing.start()
    gate.open()
    closing.join(timeout=20)
    assert not closing.is_alive()
    assert running.wait().error == waiting.wait().error == "The server is shutting down."
    assert not engine.running
    with pytest.raises(ClosedError):
        engine.submit(Request([1], 3), lambda event: None)
    engine.close()


def test_rows_of_the_embedding_without_a_token_are_never_chosen(tokenizer: Tokenizer) -> None:
    model = build_decoder(SHAPE, VOCABULARY * 4, 0, "cpu")
    engine = BatchingEngine(model, tokenizer.inner, slots=1, max_waiting=1)
    try:
        running = Running(engine, Request([1], 90, temperature=2.0))
        running.wait()
        assert max(running.tokens) < VOCABULARY
    finally:
        engine.close()
