"""Answering completion requests: from the HTTP request through the engine to JSON or server-sent events."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from tokenizers import Tokenizer

from groundup.deploy import api
from groundup.deploy.api import CompletionRequest
from groundup.deploy.interface import BusyError, ClosedError, Engine, Event, Handle
from groundup.deploy.interface import Request as EngineRequest
from groundup.deploy.web import ApiError, check_name, read_body

MAX_BODY_BYTES = 4 << 20


class Completions:
    """From a completion request to its answer."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, name: str, start_id: int | None) -> None:
        self._engine, self._tokenizer, self._name, self._start_id = engine, tokenizer, name, start_id
        self._vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    async def complete(self, request: Request) -> Response:
        wanted = api.parse_completion(await read_body(request, MAX_BODY_BYTES))
        check_name(wanted.model, self._name)
        # In a thread, since a long prompt takes a while to encode.
        prompts = await run_in_threadpool(lambda: [self._encode(prompt) for prompt in wanted.prompt])
        requests = self._requests(wanted, prompts)
        echoes = [self._written(wanted.prompt[i // wanted.n]) if wanted.echo else "" for i in range(len(requests))]
        answer = _Answer(self._engine, requests)
        prompt_tokens = sum(map(len, prompts))
        if wanted.stream:
            pieces = self._stream(answer, echoes, prompt_tokens, wanted.stream_options.include_usage)
            return _CancellingStream(answer, pieces)
        return await _unless_gone(request, answer, self._whole(answer, echoes, prompt_tokens))

    def _encode(self, prompt: str | list[int]) -> list[int]:
        start = [] if self._start_id is None else [self._start_id]
        if isinstance(prompt, str):
            ids = start + self._tokenizer.encode(prompt, add_special_tokens=False).ids
        else:
            ids = prompt or start
            wrong = next((token for token in ids if not 0 <= token < self._vocab_size), None)
            if wrong is not None:
                message = f"`prompt` holds the token id {wrong}; this model's go from 0 to {self._vocab_size - 1}."
                raise ApiError(400, message, param="prompt", code="invalid_value")
        if not ids:
            message = "`prompt` is empty, and this model has no token that begins a document."
            raise ApiError(400, message, param="prompt", code="invalid_value")
        return ids

    def _written(self, prompt: str | list[int]) -> str:
        if isinstance(prompt, str):
            return prompt
        return str(self._tokenizer.decode(prompt, skip_special_tokens=False))

    def _requests(self, wanted: CompletionRequest, prompts: list[list[int]]) -> list[EngineRequest]:
        count, capacity = len(prompts) * wanted.n, self._engine.capacity
        if count > capacity:
            message = f"The request asks for {count} texts; this server takes {capacity} at once."
            raise ApiError(400, message, param="n" if wanted.n > 1 else "prompt", code="too_many")
        seed = secrets.randbits(63) if wanted.seed is None else wanted.seed
        lengths = [self._new_tokens(wanted, len(ids)) for ids in prompts]
        return [
            EngineRequest(
                ids,
                max_tokens=length,
                temperature=wanted.temperature,
                top_k=max(wanted.top_k, 0),
                top_p=wanted.top_p,
                seed=seed,
                choice=number,
                stop=tuple(wanted.stop),
            )
            for ids, length in zip(prompts, lengths, strict=True)
            for number in range(wanted.n)
        ]

    def _new_tokens(self, wanted: CompletionRequest, prompt: int) -> int:
        """How many tokens to make after a prompt of so many; raises ApiError where the context has no room."""
        context = self._engine.context_length
        room = context - prompt
        if room < 1:
            message = f"The prompt has {prompt} tokens; with the answer, the model's context holds {context}."
            raise ApiError(400, message, param="prompt", code="context_length_exceeded")
        if wanted.wanted_tokens is None:
            return min(api.DEFAULT_MAX_TOKENS, room)
        if wanted.wanted_tokens > room:
            message = (
                f"`max_tokens` is {wanted.wanted_tokens}, but the model's context holds {context} tokens and "
                f"the prompt takes {prompt} of them: {room} are left."
            )
            raise ApiError(400, message, param="max_tokens", code="context_length_exceeded")
        return wanted.wanted_tokens

    async def _whole(self, answer: _Answer, echoes: list[str], prompt_tokens: int) -> Response:
        texts, reasons = list(echoes), [""] * len(echoes)
        async for index, event in answer.events():
            texts[index] += event.text
            reasons[index] = event.finish or ""
        choices = [api.choice(i, text, reason) for i, (text, reason) in enumerate(zip(texts, reasons, strict=True))]
        usage = api.usage(prompt_tokens, answer.tokens)
        return JSONResponse({**api.envelope(self._name), "choices": choices, "usage": usage})

    async def _stream(
        self, answer: _Answer, echoes: list[str], prompt_tokens: int, include_usage: bool
    ) -> AsyncIterator[bytes]:
        envelope = api.envelope(self._name)
        if include_usage:
            envelope["usage"] = None
        try:
            for index, text in enumerate(echoes):
                if text:
                    yield api.server_sent({**envelope, "choices": [api.choice(index, text, None)]})
            async for index, event in answer.events():
                if event.text or event.finish:
                    yield api.server_sent({**envelope, "choices": [api.choice(index, event.text, event.finish)]})
            if include_usage:
                usage = api.usage(prompt_tokens, answer.tokens)
                yield api.server_sent({**envelope, "choices": [], "usage": usage})
        except ApiError as error:
            yield api.server_sent(error.body)
        yield b"data: [DONE]\n\n"


class _Answer:
    """The engine's requests for one HTTP request; their events, in this event loop. All get in, or none."""

    def __init__(self, engine: Engine, requests: list[EngineRequest]) -> None:
        self._engine, self._loop = engine, asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._handles: list[Handle] = []
        self.tokens = 0
        try:
            for index, request in enumerate(requests):
                self._handles.append(engine.submit(request, partial(self._deliver, index)))
        except BusyError as error:
            self.cancel()
            message = "The server has as many requests in hand as it takes; try again in a moment."
            raise ApiError(429, message, code="rate_limit_exceeded", headers={"Retry-After": "1"}) from error
        except ClosedError as error:
            raise ApiError(503, "The server is shutting down.", code="shutting_down") from error

    def _deliver(self, index: int, event: Event) -> None:
        self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """All events until every request has ended; raises ApiError where one failed."""
        running = len(self._handles)
        while running:
            index, event = await self._events.get()
            if event.finish == "error":
                self.cancel()
                raise ApiError(500 if self._engine.running else 503, event.error, code="engine_error")
            self.tokens += event.token is not None
            running -= event.finish is not None
            yield index, event

    def cancel(self) -> None:
        for handle in self._handles:
            handle.cancel()


class _CancellingStream(StreamingResponse):
    """Server-sent events; however the response ends, nothing goes on being computed for it."""

    def __init__(self, answer: _Answer, pieces: AsyncIterator[bytes]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(pieces, media_type="text/event-stream", headers=headers)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.cancel()


async def _unless_gone(request: Request, answer: _Answer, work: Coroutine[Any, Any, Response]) -> Response:
    """The result of `work`; where the client goes away first, its requests are cancelled."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else Response(status_code=499)
    finally:
        working.cancel()
        leaving.cancel()
        answer.cancel()
