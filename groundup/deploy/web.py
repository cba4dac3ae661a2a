"""What the HTTP applications have in common: errors as JSON, pages under a strict policy, other sites kept away."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class ApiError(Exception):
    """An answer that is an error: status, one sentence, and the field it is about."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers
        kind = {429: "rate_limit_error"}.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def add_pages(app: FastAPI, pages: Mapping[str, tuple[str, str]]) -> None:
    """Serve files of this package. `pages`: path to file name and media type."""
    for path, (file, kind) in pages.items():
        content = files("groundup.deploy").joinpath(file).read_bytes()
        page = partial(Response, content, media_type=kind, headers=_PAGE_HEADERS)
        app.add_api_route(path, _answering(page), methods=["GET"])


def _answering(page: partial[Response]) -> Any:
    async def answer() -> Response:
        return page()

    return answer


def add_models(app: FastAPI, name: str, properties: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """The list of models, which are one. `facts`: what is known of its making, told where it is asked for by name."""
    model = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "groundup", **properties}

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [model]})

    @app.get("/v1/models/{wanted:path}")
    async def one_model(wanted: str) -> Response:
        check_name(wanted, name)
        return JSONResponse({**model, "groundup": facts})


def check_name(wanted: str | None, name: str) -> None:
    """Raises ApiError 404 where another model is asked for than the one served."""
    if wanted not in (None, name):
        message = f"There is no model `{wanted}` here; this server serves `{name}`."
        raise ApiError(404, message, param="model", code="model_not_found")


def protect(app: FastAPI, *, has: str, local_names: frozenset[str] | None) -> None:
    """Answer every error as JSON, and keep other sites away.

    has: the API's paths, in words, for whoever asks for another. local_names: where the server is for this machine
    only, the names it may be called by; else None.
    """

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        messages = {
            404: f"There is nothing at {request.url.path}; the API has {has}.",
            405: f"{request.method} is not possible at {request.url.path}.",
        }
        message = messages.get(error.status_code, str(error.detail))
        headers = dict(error.headers) if error.headers else None
        return ApiError(error.status_code, message, headers=headers).response()

    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, _fault)
    if local_names is not None:
        app.add_middleware(_LocalOnly, names=local_names)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _fault(request: Request, error: Exception) -> Response:
    return ApiError(500, f"The server made a mistake ({type(error).__name__}); its log says more.").response()


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; raises ApiError 413 where it is larger than `limit` bytes."""
    too_large = ApiError(413, f"The body is larger than {limit} bytes.", code="body_too_large")
    if int(request.headers.get("content-length", "0")) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


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
