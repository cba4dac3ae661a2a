"""The HTTP application: OpenAI's completions over an engine, and the page to try the model on."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response
from tokenizers import Tokenizer

from groundup.deploy.completions import Completions
from groundup.deploy.interface import Engine
from groundup.deploy.web import add_models, add_pages, protect

_PAGES = {
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

    @app.get("/health")
    async def health() -> Response:
        status = "ok" if engine.running else "stopped"
        return JSONResponse({"status": status, "model": name, **engine.stats()}, 200 if engine.running else 503)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await service.complete(request)

    add_models(app, name, {"context_length": engine.context_length}, facts)
    add_pages(app, _PAGES)
    protect(app, has="/v1/completions, /v1/models and /health", local_names=local_names)
    return app
