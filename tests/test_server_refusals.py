"""What the server refuses, and the sentence it says then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.serving import CONTEXT, SHAPE, VOCABULARY, process, write_folder


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("export")
    write_folder(folder, SHAPE.model_copy(update={"context_length": CONTEXT}))
    with process(folder) as (_, url):
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


WRONG = [
    (
        {"prompt": 5},
        "prompt",
        "`prompt` must be a text, a list of texts, a list of token ids, or a list of lists",
    ),
    ({"prompt": []}, "prompt", "`prompt` must be a text"),
    ({"prompt": ["a", 1]}, "prompt", "`prompt` must be a text"),
    ({"prompt": [1, True]}, "prompt", "`prompt` must be a text"),
    ({"prompt": [VOCABULARY]}, "prompt", "the token id 320; this model's go from 0 to 319."),
    ({"prompt": [-1]}, "prompt", "the token id -1"),
    ({}, "prompt", "`prompt` is missing."),
    ({"messages": []}, "prompt", "`prompt` is missing. Chat messages are not supported."),
    (
        {"prompt": "a", "max_tokens": 0},
        "max_tokens",
        "`max_tokens` must be greater than or equal to 1, not 0.",
    ),
    ({"prompt": "a", "max_tokens": "ten"}, "max_tokens", '`max_tokens` must be a valid integer, not "ten".'),
    ({"prompt": "a", "max_tokens": 2.5}, "max_tokens", "`max_tokens` must be a valid integer, not 2.5."),
    ({"prompt": "a", "max_tokens": True}, "max_tokens", "`max_tokens` must be a valid integer, not true."),
    ({"prompt": [1] * 96, "max_tokens": CONTEXT}, "max_tokens", "prompt takes 96 of them: 4000 are left."),
    ({"prompt": [1] * CONTEXT}, "prompt", "The prompt has 4096 tokens; with the answer, the model's context"),
    ({"prompt": "a", "temperature": -0.1}, "temperature", "`temperature` must be greater than or equal to 0"),
    (
        {"prompt": "a", "temperature": 2.1},
        "temperature",
        "`temperature` must be less than or equal to 2, not",
    ),
    ({"prompt": "a", "temperature": "1"}, "temperature", '`temperature` must be a valid number, not "1".'),
    ({"prompt": "a", "top_p": 0}, "top_p", "`top_p` must be greater than 0, not 0."),
    ({"prompt": "a", "top_p": 1.5}, "top_p", "`top_p` must be less than or equal to 1"),
    ({"prompt": "a", "top_k": -2}, "top_k", "`top_k` must be greater than or equal to -1"),
    ({"prompt": "a", "top_k": 2**63}, "top_k", "`top_k` must be less than 9223372036854775808"),
    ({"prompt": "a", "seed": "x"}, "seed", "`seed` must be a valid integer"),
    ({"prompt": "a", "n": 0}, "n", "`n` must be greater than or equal to 1"),
    ({"prompt": "a", "n": 6}, "n", "The request asks for 6 texts; this server takes 5 at once."),
    ({"prompt": ["a"] * 6}, "prompt", "The request asks for 6 texts"),
    ({"prompt": "a", "stop": ""}, "stop", "`stop` must be a text or a list of texts, none of them empty."),
    ({"prompt": "a", "stop": [1]}, "stop", "`stop` must be a text"),
    ({"prompt": "a", "stop": ["a"] * 17}, "stop", "`stop` may hold 16 texts at most, not 17."),
    ({"prompt": "a", "stream": "yes"}, "stream", "`stream` must be a valid boolean"),
    (
        {"prompt": "a", "stream_options": {"include_usage": 1}},
        "stream_options",
        "`stream_options.include_usage`",
    ),
    ({"prompt": "a", "logprobs": 0}, "logprobs", "`logprobs` is not supported by this server; leave it out."),
    ({"prompt": "a", "best_of": 2}, "best_of", "`best_of` is not supported"),
    ({"prompt": "a", "suffix": "b"}, "suffix", "`suffix` is not supported"),
    ({"prompt": "a", "logit_bias": {"5": 1}}, "logit_bias", "`logit_bias` is not supported"),
    ({"prompt": "a", "presence_penalty": 0.5}, "presence_penalty", "`presence_penalty` is not supported"),
]


@pytest.mark.parametrize(("fields", "param", "sentence"), WRONG)
def test_a_wrong_field_gets_400_and_a_sentence(
    client: httpx.Client, fields: dict[str, Any], param: str, sentence: str
) -> None:
    response = client.post("/v1/completions", json=fields)
    error = response.json()["error"]
    assert response.status_code == 400
    assert sentence in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "The body is not valid JSON"),
        (b'{"prompt": "a"', "The body is not valid JSON"),
        (b'{"prompt": "\xff"}', "The body is not valid JSON"),
        (rb'{"prompt": "\ud800"}', "The body is not valid JSON"),
        (b'{"prompt": "a", "temperature": NaN}', "The body is not valid JSON"),
        (b'["a"]', "The body must be a JSON object"),
        (b"[" * 100_000, "The body is not valid JSON"),
    ],
)
def test_a_body_that_is_no_request(client: httpx.Client, body: bytes, sentence: str) -> None:
    response = client.post("/v1/completions", content=body)
    assert response.status_code == 400
    assert sentence in response.json()["error"]["message"]


def test_other_names_and_places(client: httpx.Client) -> None:
    response = client.post("/v1/completions", json={"prompt": "a", "model": "gpt-4"})
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["message"] == "There is no model `gpt-4` here; this server serves `tiny`."
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert client.get("/v1/models/a/b").status_code == 404
    response = client.post("/v1/chat/completions", json={})
    assert response.status_code == 404
    assert "There is nothing at /v1/chat/completions" in response.json()["error"]["message"]
    response = client.get("/v1/completions")
    assert response.status_code == 405
    assert response.json()["error"]["message"] == "GET is not possible at /v1/completions."


def test_a_body_that_is_too_large(client: httpx.Client, url: str) -> None:
    response = client.post("/v1/completions", content=b" " * (4 << 20) + b"{}")
    assert response.status_code == 413
    assert response.json()["error"]["message"] == "The body is larger than 4194304 bytes."

    def unannounced() -> Iterator[bytes]:
        for _ in range(5):
            yield b" " * (1 << 20)

    assert client.post("/v1/completions", content=unannounced()).status_code == 413
    assert client.get("/health").status_code == 200


def test_other_sites_are_kept_away(client: httpx.Client, url: str) -> None:
    port = url.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
        response = client.get("/health", headers={"Host": host})
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "host_not_allowed"
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "LOCALHOST"):
        assert client.get("/health", headers={"Host": host}).status_code == 200
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{int(port) - 1}"):
        response = client.post("/v1/completions", json={"prompt": "a"}, headers={"Origin": origin})
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "origin_not_allowed"
    response = client.post("/v1/completions", json={"prompt": "a"}, headers={"Origin": url})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers
