"""OpenAI's completions API: what a request may say, and the shapes of answers and errors.

Reference: https://platform.openai.com/docs/api-reference/completions. Fields that are not known here are
ignored, since clients send many; those that would change the answer and are not supported are refused.
"""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from groundup.deploy.web import ApiError

DEFAULT_MAX_TOKENS = 16

# Fields that change the answer and are not supported, each with the values that leave it as it is.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "logprobs": (False,),
    "prompt_logprobs": (False,),
    "best_of": (1,),
    "suffix": ("",),
    "logit_bias": ({},),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "min_p": (0, 0.0),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "response_format": ({"type": "text"},),
}


def _prompts(value: Any) -> Any:
    """A text, a list of texts, a list of token ids, or a list of such lists: always as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(part, str) for part in value) or all(_is_ids(part) for part in value):
            return value
        if _is_ids(value):
            return [value]
    raise ValueError("must be a text, a list of texts, a list of token ids, or a list of lists of token ids")


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(part) is int for part in value)


def _stops(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError("must be a text or a list of texts, none of them empty")
    if len(stops) > 16:
        raise ValueError(f"may hold 16 texts at most, not {len(stops)}")
    return stops


class StreamOptions(BaseModel):
    """How the answer is streamed."""

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool = False


class CompletionRequest(BaseModel):
    """Body of `POST /v1/completions`."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model: str | None = None
    prompt: Annotated[list[str | list[int]], BeforeValidator(_prompts)]
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, lt=2**63)  # 0, and -1 as some servers have it: among all
    seed: int | None = None
    stop: Annotated[list[str], BeforeValidator(_stops)] = []
    n: int = Field(1, ge=1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    echo: bool = False

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens


def parse_completion(body: bytes) -> CompletionRequest:
    """The request in `body`; raises ApiError 400 with a sentence on the first thing that is wrong."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(fields, dict):
        raise ApiError(400, "The body must be a JSON object with the field `prompt`.", code="invalid_json")
    fields = {name: value for name, value in fields.items() if value is not None}
    for name, neutral in _UNSUPPORTED.items():
        # Types count too: `logprobs: 0` asks for something, though 0 == False.
        if name in fields and not any(type(fields[name]) is type(v) and fields[name] == v for v in neutral):
            raise ApiError(
                400,
                f"`{name}` is not supported by this server; leave it out.",
                param=name,
                code="unsupported",
            )
    if "prompt" not in fields:
        hint = " Chat messages are not supported." if "messages" in fields else ""
        raise ApiError(400, f"`prompt` is missing.{hint}", param="prompt", code="missing")
    try:
        return CompletionRequest.model_validate(fields)
    except ValidationError as error:
        raise _as_api_error(error) from error


def _as_api_error(error: ValidationError) -> ApiError:
    first = error.errors()[0]
    name = str(first["loc"][0])
    path = ".".join(map(str, first["loc"]))
    if first["type"] == "value_error":
        message = f"`{path}` {first['ctx']['error']}."
    else:
        given = orjson.dumps(first["input"]).decode()
        given = given if len(given) <= 40 else given[:40] + "..."
        message = f"`{path}` {first['msg'].replace('Input should be', 'must be', 1)}, not {given}."
    return ApiError(400, message, param=name, code="invalid_value")


def envelope(model: str) -> dict[str, Any]:
    """What every part of one answer has in common."""
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }


def choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def server_sent(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"
