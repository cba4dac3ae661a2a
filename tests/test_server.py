"""The server as clients see it: a process of its own over a small export, asked through HTTP."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from tokenizers import Tokenizer as HfTokenizer

from groundup.data.tokens.tokenizer import Tokenizer
from groundup.deploy.app import create_app
from groundup.deploy.engine import BatchingEngine
from groundup.deploy.server import listen, serve
from groundup.errors import UserError
from groundup.models.sampling import generate
from tests.serving import CONTEXT, MAX_WAITING, SHAPE, SLOTS, decoder, process, tokenizer_in, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    write_folder(folder, SHAPE.model_copy(update={"context_length": CONTEXT}))
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with process(folder) as (_, url):
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def complete(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post("/v1/completions", json=fields)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def text_of(client: httpx.Client, **fields: Any) -> str:
    return str(complete(client, **fields)["choices"][0]["text"])


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The data of server-sent events, up to [DONE], which must be the last."""
    lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    yield from (json.loads(line[6:]) for line in lines[:-1])


def until(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


# --- what is served


def test_health_and_models(client: httpx.Client) -> None:
    health = client.get("/health").json()
    assert health["status"] == "ok"
    assert health["model"] == "tiny"
    assert {"slots", "active", "waiting", "requests", "tokens", "tokens_per_second"} < health.keys()
    models = client.get("/v1/models").json()
    assert models["object"] == "list"
    assert [(model["id"], model["object"]) for model in models["data"]] == [("tiny", "model")]
    model = client.get("/v1/models/tiny").json()
    assert model["context_length"] == CONTEXT
    assert model["groundup"]["lineage"]["parameters"] == 33_000


def test_the_page_needs_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for place in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        if not place.startswith("data:"):
            part = client.get(place)
            assert part.status_code == 200
            assert part.headers["x-content-type-options"] == "nosniff"
            assert "innerHTML" not in part.text
            assert "http" not in part.text.replace("https and this machine", "")
    assert "style=" not in page.text
    assert not re.search(r"<script[^>]*>[^<]", page.text)
    assert not re.search(r"\son[a-z]+=", page.text)


# --- completions


def test_a_completion_has_the_shape_clients_know(client: httpx.Client) -> None:
    body = complete(client, model="tiny", prompt="The quick", max_tokens=12, seed=1, user="u", unknown={"a": 1})
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert abs(body["created"] - time.time()) < 60
    assert body["model"] == "tiny"
    [choice] = body["choices"]
    assert choice["index"] == 0
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    usage = body["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12


def test_nulls_are_defaults_and_the_content_type_does_not_matter(client: httpx.Client) -> None:
    body = '{"prompt": "a", "max_tokens": null, "temperature": null, "logprobs": null, "stop": null, "n": null}'
    answer = client.post("/v1/completions", content=body)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 16


def test_a_prompt_may_be_text_or_tokens(client: httpx.Client, folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    options = {"max_tokens": 10, "seed": 3}
    ids = [tokenizer.start_id, *tokenizer.encode("The lazy")]
    texts = {text_of(client, prompt=prompt, **options) for prompt in ("The lazy", ["The lazy"], ids, [ids])}
    assert len(texts) == 1
    both = complete(client, prompt=["The lazy", "fox"], **options)["choices"]
    assert [choice["index"] for choice in both] == [0, 1]
    assert [choice["text"] for choice in both] == [*texts, text_of(client, prompt="fox", **options)]


def test_an_empty_prompt_begins_a_document(client: httpx.Client, folder: Path) -> None:
    start = Tokenizer(folder).start_id
    texts = {text_of(client, prompt=prompt, max_tokens=10, seed=3) for prompt in ("", [[]], [start])}
    assert len(texts) == 1


def test_special_tokens_in_a_prompt_are_plain_text(client: httpx.Client, folder: Path) -> None:
    usage = complete(client, prompt="<|endoftext|>", max_tokens=1)["usage"]
    assert usage["prompt_tokens"] == 1 + len(Tokenizer(folder).encode("<|endoftext|>")) > 5


def test_settings_have_their_effect(client: httpx.Client) -> None:
    def text(**settings: Any) -> str:
        return text_of(client, prompt="The", max_tokens=20, **settings)

    assert text(seed=1) == text(seed=1) == text(max_completion_tokens=20, seed=1)
    assert text(seed=1) != text(seed=2)
    assert text() != text()
    greedy = text(temperature=0)
    assert greedy == text(top_k=1) == text(top_p=1e-9) == text(temperature=0, seed=5, top_k=-1)


def test_several_choices_differ_and_are_repeatable(client: httpx.Client) -> None:
    options = {"prompt": ["The", "fox"], "max_tokens": 10, "seed": 4}
    four = [choice["text"] for choice in complete(client, n=2, **options)["choices"]]
    assert len(set(four)) == 4
    assert four == [choice["text"] for choice in complete(client, n=2, best_of=1, **options)["choices"]]
    assert four[::2] == [choice["text"] for choice in complete(client, **options)["choices"]]


def test_echo_and_stop(client: httpx.Client) -> None:
    options = {"prompt": "Größe", "max_tokens": 30, "seed": 5}
    free = text_of(client, **options)
    assert text_of(client, echo=True, **options) == "Größe" + free
    stop = free[10:13]
    body = complete(client, stop=["not there", stop], **options)
    assert body["choices"][0]["text"] == free[: free.index(stop)]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert text_of(client, stop=stop, **options) == free[: free.index(stop)]


def test_streaming_brings_the_same_text(client: httpx.Client) -> None:
    options = {"prompt": ["日本", "The"], "max_tokens": 40, "seed": 6, "echo": True}
    whole = complete(client, **options)
    asked = {**options, "stream": True, "stream_options": {"include_usage": True}}
    with client.stream("POST", "/v1/completions", json=asked) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        parts = list(events(response))
    *parts, last = parts
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert {part["id"] for part in parts} == {last["id"]}
    assert all(part["usage"] is None and part["object"] == "text_completion" for part in parts)
    texts, reasons = ["", ""], ["", ""]
    for part in parts:
        [choice] = part["choices"]
        assert not reasons[choice["index"]]
        texts[choice["index"]] += choice["text"]
        reasons[choice["index"]] = choice["finish_reason"] or ""
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert reasons == [choice["finish_reason"] for choice in whole["choices"]]
    assert len(parts) > 20


def test_streams_without_being_asked_for_usage_carry_none(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/completions", json={"prompt": "a", "stream": True}) as response:
        assert all("usage" not in part and part["choices"] for part in events(response))


def test_concurrent_requests_get_what_they_get_alone(client: httpx.Client) -> None:
    asked = [{"prompt": "The" * n, "max_tokens": 20 + n, "seed": n} for n in range(SLOTS + MAX_WAITING)]
    alone = [text_of(client, **fields) for fields in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        assert list(pool.map(lambda fields: text_of(client, **fields), asked)) == alone


# --- load, and clients that go away


def long(stream: bool) -> dict[str, Any]:
    """A request that takes seconds."""
    return {"prompt": "The", "max_tokens": CONTEXT - 10, "stream": stream, "seed": 1}


def test_who_leaves_a_stream_cancels_the_request(client: httpx.Client) -> None:
    before = client.get("/health").json()["tokens"]
    with client.stream("POST", "/v1/completions", json=long(stream=True)) as response:
        lines = response.iter_lines()  # kept: closing it would close the connection
        next(lines)
        assert client.get("/health").json()["active"] == 1
    until(lambda: client.get("/health").json()["active"] == 0)
    assert client.get("/health").json()["tokens"] - before < CONTEXT // 2


def test_who_leaves_before_a_whole_answer_cancels_the_request(client: httpx.Client, url: str) -> None:
    before = client.get("/health").json()["tokens"]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url + "/v1/completions", json={**long(stream=False), "n": 3}, timeout=0.2)
    until(lambda: client.get("/health").json()["active"] == 0)
    health = client.get("/health").json()
    assert health["waiting"] == 0
    assert health["tokens"] - before < CONTEXT


def test_a_full_queue_gets_429(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/completions", json={**long(stream=True), "n": SLOTS + MAX_WAITING}) as busy:
        lines = busy.iter_lines()
        next(lines)
        for stream in (False, True):
            response = client.post("/v1/completions", json={"prompt": "a", "stream": stream})
            assert response.status_code == 429
            assert response.headers["retry-after"] == "1"
            error = response.json()["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
            assert error["message"].startswith("The server has as many requests in hand as it takes")
        health = client.get("/health").json()
        assert (health["active"], health["waiting"]) == (SLOTS, MAX_WAITING)
    until(lambda: client.get("/health").json()["active"] == 0)
    assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 200


# --- a model that fails


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[httpx.Client]:
    """A server in this process, whose model fails on the token 13 and computes no number for the token 14."""
    model, tokenizer = decoder(), tokenizer_in(tmp_path)
    with torch.no_grad():
        model.embedding.weight[14] = torch.nan

    def fail(_: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        if arguments[0][0, -1] == 13:
            raise RuntimeError("a secret of the machine")

    model.register_forward_pre_hook(fail)
    inner = HfTokenizer.from_str(tokenizer.inner.to_str())
    engine = BatchingEngine(model, inner, slots=1, max_waiting=1)
    server = uvicorn.Server(uvicorn.Config(create_app(engine, inner, {}), log_level="critical"))
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30) as client:
            yield client
        server.should_exit = True
        thread.join()
        engine.close()


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (13, "The model's forward pass failed (RuntimeError); the server's log says more."),
        (14, "The model computed values that are not numbers."),
    ],
)
def test_a_failing_model_fails_the_request_and_not_the_server(failing: httpx.Client, token: int, sentence: str) -> None:
    response = failing.post("/v1/completions", json={"prompt": [token]})
    assert response.status_code == 500
    error = response.json()["error"]
    assert (error["message"], error["type"]) == (sentence, "server_error")
    with failing.stream("POST", "/v1/completions", json={"prompt": [token], "stream": True}) as stream:
        [event] = events(stream)
    assert event["error"]["message"] == sentence
    assert failing.post("/v1/completions", json={"prompt": [1], "temperature": 0}).status_code == 200
    assert failing.get("/health").json()["active"] == 0


def test_any_tokenizer_is_told_that_prompts_are_plain_text(failing: httpx.Client) -> None:
    assert complete(failing, prompt="<|endoftext|>", max_tokens=1)["usage"]["prompt_tokens"] > 3


def test_without_a_start_token_an_empty_prompt_is_refused(failing: httpx.Client) -> None:
    response = failing.post("/v1/completions", json={"prompt": ""})
    assert response.status_code == 400
    assert "`prompt` is empty, and this model has no token" in response.json()["error"]["message"]


# --- starting and stopping


def test_the_end_token_comes_from_the_generation_config(tmp_path: Path) -> None:
    model, tokenizer = write_folder(tmp_path), Tokenizer(tmp_path)
    prompt = [tokenizer.start_id, *tokenizer.encode("The")]
    [free] = generate(model, [prompt], max_new_tokens=12, temperature=0)
    write_folder(tmp_path, end=free[8])
    with process(tmp_path) as (_, url), httpx.Client(base_url=url, timeout=30) as ending:
        body = complete(ending, prompt="The", max_tokens=12, temperature=0)
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["text"] == tokenizer.decode(free[: free.index(free[8])])


def test_ctrl_c_ends_the_running_requests_and_the_process(folder: Path) -> None:
    with (
        process(folder) as (server, url),
        httpx.stream("POST", url + "/v1/completions", json=long(stream=True), timeout=30) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        server.send_signal(signal.SIGINT)
        rest = [line for line in lines if line]
        assert json.loads(rest[-2][6:])["error"]["message"] == "The server is shutting down."
        assert rest[-1] == "data: [DONE]"
        assert server.wait(timeout=20) == 0
        assert server.stdout is not None
        assert server.stderr is not None
        assert server.stdout.read() == ""
        assert server.stderr.read() == ""


def test_a_port_in_use_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use") as caught:
            serve(tmp_path / "no such folder", port=port)
    assert "--port" in caught.value.advice
    assert caught.value.where == f"127.0.0.1:{port}"


def test_the_port_can_be_had_again_at_once(folder: Path) -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            first.accept()[0].close()
    listen("127.0.0.1", port).close()


def test_an_address_that_does_not_exist() -> None:
    with pytest.raises(UserError, match=r"host\.invalid:80: the host is unknown"):
        listen("host.invalid", 80)
    with pytest.raises(UserError, match="can't listen here"):
        listen("192.0.2.1", 0)
    with pytest.raises(UserError, match=r"127\.0\.0\.1:70000: this is no port"):
        listen("127.0.0.1", 70_000)


def test_folders_that_cannot_be_served(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer\.json here"):
        serve(tmp_path, port=0)
    tokenizer_in(tmp_path)
    with pytest.raises(UserError, match=r"there is no config\.json"):
        serve(tmp_path, port=0)
    write_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="this tokenizer can't be read"):
        serve(tmp_path, port=0)
