"""The HTTP application over a classifier: `/predict`, what it takes, and the page to try it on.

Shapes: B rows, F features, C classes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import orjson
import torch
from fastapi import FastAPI, Request
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

from groundup.data.table.preprocess import Preprocessor
from groundup.deploy.classifier_api import MAX_BODY_BYTES, parse_predict
from groundup.deploy.classifier_load import load_classifier
from groundup.deploy.classifier_schema import openapi, schema
from groundup.deploy.web import ApiError, add_models, add_pages, protect, read_body
from groundup.errors import UserError
from groundup.models.perceptron import Perceptron

_SCRIPTS = ("predict.js", "predict_common.js", "predict_csv.js", "predict_table.js")
_PAGES = {
    "/": ("predict.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/predict.css": ("predict.css", "text/css"),
    **{f"/{name}": (name, "text/javascript") for name in _SCRIPTS},
}
_PORTION = 1024  # rows of one forward pass


class Predictor:
    """Raw rows to labels and probabilities."""

    def __init__(self, model: Perceptron, preprocessor: Preprocessor, device: torch.device) -> None:
        self.model, self.preprocessor, self.device = model.to(device).eval(), preprocessor, device
        # As JSON already: orjson takes no whole numbers beyond 64 bits.
        self.labels = [orjson.Fragment(json.dumps(label, ensure_ascii=False)) for label in preprocessor.classes]

    def answer(self, body: bytes) -> tuple[bytes, int]:
        """The answer to a request to `/predict`, as JSON, and how many rows it is about. Raises ApiError."""
        columns = parse_predict(body, self.preprocessor)
        try:
            with np.errstate(over="ignore"):  # what fp32 doesn't hold is told below
                features_BF = self.preprocessor.encode(columns)
        except UserError as error:
            raise ApiError(422, f"{error}.", param="data", code="invalid_value") from error
        probabilities_BC = self.probabilities(features_BF)
        if not np.isfinite(probabilities_BC).all():
            row = int(np.argwhere(~np.isfinite(probabilities_BC))[0][0])
            message = f"The values of data[{row}] are so large that the model computes no probabilities."
            raise ApiError(422, message, param=f"data[{row}]", code="overflow")
        content = orjson.dumps(
            {
                "classes": self.labels,
                "predictions": [self.labels[c] for c in probabilities_BC.argmax(1)],
                "probabilities": probabilities_BC,
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        return content, len(features_BF)

    @torch.inference_mode()
    def probabilities(self, features_BF: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [B, C]; rows sum to 1."""
        portions = torch.from_numpy(features_BF).split(_PORTION)
        parts = [self.model(x_BF.to(self.device)).double().softmax(-1).float().cpu() for x_BF in portions]
        return np.ascontiguousarray(torch.cat(parts).numpy())


def open_classifier(
    folder: Path, facts: dict[str, Any], *, name: str, local_names: frozenset[str] | None, device: str
) -> tuple[FastAPI, Callable[[], None]]:
    """The application over the export in `folder`, and what ends it. Raises UserError as load_classifier does."""
    model, preprocessor = load_classifier(folder)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = Predictor(model, preprocessor, torch.device(device))
    return create_app(predictor, facts, name=name, local_names=local_names), lambda: None


def create_app(
    predictor: Predictor, facts: dict[str, Any], *, name: str, local_names: frozenset[str] | None = None
) -> FastAPI:
    """The application. `facts`: what is known of the model's making: groundup.json, whose `lineage.data.columns` are
    the columns' statistics.

    local_names: where the server is for this machine only, the names it may be called by; else None.
    """
    app = FastAPI(title="Groundup", docs_url=None, redoc_url=None, openapi_url=None)
    preprocessor = predictor.preprocessor
    described = schema(preprocessor, facts.get("lineage", {}).get("data", {}).get("columns", []))
    api = openapi(name, preprocessor, described)
    # A request holds memory while it is worked on: no more of them at once than there are cores.
    limiter = anyio.CapacityLimiter(os.cpu_count() or 1)

    served = {"requests": 0, "rows": 0}

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        body = await read_body(request, MAX_BODY_BYTES)
        content, rows = await anyio.to_thread.run_sync(predictor.answer, body, limiter=limiter)
        served["requests"] += 1
        served["rows"] += rows
        return Response(content, media_type="application/json")

    @app.get("/schema")
    async def columns() -> Response:
        return JSONResponse(described)

    @app.get("/openapi.json")
    async def description() -> Response:
        return JSONResponse(api)

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok", "model": name, **served})

    features = {"features": preprocessor.width, "classes": len(preprocessor.classes)}
    add_models(app, name, features, facts)
    add_pages(app, _PAGES)
    protect(app, has="/predict, /schema, /openapi.json, /v1/models and /health", local_names=local_names)
    return app
