"""The HTTP application: OpenAI's completions over an engine, and the page to try the model on."""

from __future__ import annotations

import time
from functools import partial
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from tokenizers import Tokenizer

from groundup.deploy.api import ApiError
from groundup.deploy.completions import Completions
from groundup.deploy.interface import Engine

_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_PAGE_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


def create_app(
    engine: Engine,
    tokenizer: Tokenizer,
    facts: dict[str, Any],
    *,
    name: str = "model",
    start_id: int | None = None,
    local_names: frozenset[str] | None = None,
) -> FastAPI:
    """The application. `facts`: what is known of the model's making, shown on the page and at
    `/v1/models/NAME`.

    start_id: the token every document began with in training; put before prompts given as text. local_names:
    where the server is for this machine only, the names it may be called by; else None.
    """
    # What a prompt holds is text, even where it looks like a special token.
    tokenizer.encode_special_tokens = True
    app = FastAPI(title="Groundup", docs_url=None, redoc_url=None, openapi_url=None)
    service = Completions(engine, tokenizer, name, start_id)
    model = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "groundup"}
    model["context_length"] = engine.context_length

    @app.get("/health")
    async def health() -> Response:
        status = "ok" if engine.running else "stopped"
        return JSONResponse({"status": status, "model": name, **engine.stats()}, 200 if engine.running else 503)

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [model]})

    @app.get("/v1/models/{wanted:path}")
    async def one_model(wanted: str) -> Response:
        service.check_name(wanted)
        return JSONResponse({**model, "groundup": facts})

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await service.complete(request)

    for path, (file, kind) in _PAGE_FILES.items():
        content = files("groundup.deploy").joinpath(file).read_bytes()
        page = partial(Response, content, media_type=kind, headers=_PAGE_HEADERS)
        app.add_api_route(path, _answering(page), methods=["GET"])

    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _fault)
    if local_names is not None:
        app.add_middleware(_LocalOnly, names=local_names)
    return app


def _answering(page: partial[Response]) -> Any:
    async def answer() -> Response:
        return page()

    return answer


class _LocalOnly:
    """Keeps other sites' pages away from a server that is meant for this machine.

    A page elsewhere can point its own name at 127.0.0.1 (DNS rebinding), or send a request whose answer it
    can't read but which keeps the model busy. Browsers give themselves away by the Host and Origin headers.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host, origin = headers.get("host", ""), headers.get("origin")
            if _without_port(host) not in self._names:
                error = ApiError(403, "This server answers only to this machine's own names.", code="host_not_allowed")
                return await error.response()(scope, receive, send)
            if origin is not None and origin.partition("://")[2] != host:
                error = ApiError(403, "This server answers no other site's pages.", code="origin_not_allowed")
                return await error.response()(scope, receive, send)
        await self._app(scope, receive, send)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: f"There is nothing at {request.url.path}; the API has /v1/completions, /v1/models and /health.",
        405: f"{request.method} is not possible at {request.url.path}.",
    }
    headers = dict(error.headers) if error.headers else None
    return ApiError(error.status_code, messages.get(error.status_code, str(error.detail)), headers=headers).response()


async def _fault(request: Request, error: Exception) -> Response:
    return ApiError(500, f"The server made a mistake ({type(error).__name__}); its log says more.").response()
