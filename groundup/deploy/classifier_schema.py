"""What a classifier's server tells of itself: `/schema` for forms, `/openapi.json` for clients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from groundup.data.table.notation import EXPECTED
from groundup.data.table.preprocess import Column, Preprocessor
from groundup.deploy.classifier_api import MAX_BODY_BYTES, MAX_ROWS

_STATISTICS = ("mean", "std", "min", "max")
_MOMENTS = ("date", "zoned", "time")  # notations
_TYPES: dict[str, list[str]] = {
    "number": ["number"],
    "boolean": ["boolean"],
    "category": ["string", "number", "boolean"],
}


def schema(preprocessor: Preprocessor, statistics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The columns in training order, the classes, and the limits of a request.

    statistics: of columns by "name", with mean, std, min and max of the training data; null where it is not known.
    """
    known = {entry["name"]: entry for entry in statistics}
    return {
        "target": preprocessor.target,
        "classes": preprocessor.classes,
        "columns": [_column(column, known.get(column.name, {})) for column in preprocessor.columns],
        "missing_values": preprocessor.missing_values,
        "decimal": preprocessor.decimal,
        "limits": {"rows": MAX_ROWS, "bytes": MAX_BODY_BYTES},
    }


def _column(column: Column, known: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {name: known.get(name) if column.kind == "number" else None for name in _STATISTICS}
    return {
        "name": column.name,
        "kind": column.kind,
        **numbers,
        "categories": column.categories if column.kind == "category" else None,
        "notation": column.notation if column.kind == "number" else None,
        "default": _default(column, known.get("mean")),
        "nullable": column.fill is not None,
    }


def _default(column: Column, mean: float | None) -> Any:
    """An ordinary value: the mean of the training data, or the commonest value where it is known."""
    if column.kind == "category":
        return column.fill if column.fill is not None else next(iter(column.categories), "")
    if mean is None:
        mean = column.mean if column.fill is None else float(column.fill)
    if column.kind == "boolean":
        return mean >= 0.5
    if column.notation in _MOMENTS:
        return _moment(mean, column.notation)
    return float(f"{mean:.4g}") if math.isfinite(mean) else 0.0


def _moment(seconds: float, notation: str) -> str | float:
    """A date or time as a text of its column, without its fraction of a second; beyond the year 9999 as it is."""
    try:
        moment = datetime(1970, 1, 1) + timedelta(seconds=math.floor(seconds))
    except OverflowError:
        return seconds
    if notation == "time":
        return moment.time().isoformat()
    return moment.isoformat(" ") if notation == "date" else f"{moment.isoformat()}Z"


def openapi(name: str, preprocessor: Preprocessor, described: Mapping[str, Any]) -> dict[str, Any]:
    """The API by https://spec.openapis.org/oas/v3.1.0. described: what `schema` gave."""
    columns = described["columns"]
    fields = {column["name"]: _field(column) for column in columns}
    by_place = {
        "type": "array",
        "description": "the columns' values, in the order of training",
        "prefixItems": [{**fields[c["name"]], "title": c["name"]} for c in columns],
        "items": False,
        "minItems": len(columns),
        "maxItems": len(columns),
    }
    by_name = {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }
    rows = {"minItems": 1, "maxItems": MAX_ROWS, "type": "array"}
    example = {"data": [{c["name"]: c["default"] for c in columns}]}
    labels = preprocessor.classes
    request = {
        "type": "object",
        "required": ["data"],
        "properties": {"data": {"oneOf": [{**rows, "items": by_place}, {**rows, "items": by_name}]}},
        "examples": [example, {"data": [[c["default"] for c in columns]]}],
    }
    answer = {
        "type": "object",
        "required": ["classes", "predictions", "probabilities"],
        "properties": {
            "classes": {"type": "array", "items": {"enum": labels}, "description": "the order of the probabilities"},
            "predictions": {"type": "array", "items": {"enum": labels}, "description": "one label per row"},
            "probabilities": {
                "type": "array",
                "items": {"type": "array", "items": {"type": "number"}, "minItems": len(labels)},
                "description": "per row, one number per class; they sum to 1",
            },
        },
    }
    error = {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"], "description": "the row and column it is about"},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    }
    refusals = {"400": "no JSON", "413": "too many rows or bytes", "422": "a row the model can't take"}
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": "1", "description": f"Predicts `{preprocessor.target}`."},
        "paths": {
            "/predict": {
                "post": {
                    "operationId": "predict",
                    "summary": "Labels and probabilities of rows",
                    "requestBody": {"required": True, "content": _json("#/components/schemas/Rows", example)},
                    "responses": {
                        "200": {"description": "predictions", "content": _json("#/components/schemas/Predictions")},
                        **{
                            code: {"description": words, "content": _json("#/components/schemas/Error")}
                            for code, words in refusals.items()
                        },
                    },
                }
            },
            "/schema": _plain("schema", "The columns, the classes, and the limits of a request"),
            "/health": _plain("health", "Whether the server works"),
            "/v1/models": _plain("models", "The model's name"),
        },
        "components": {"schemas": {"Rows": request, "Predictions": answer, "Error": error}},
    }


def _field(column: Mapping[str, Any]) -> dict[str, Any]:
    types = _TYPES[column["kind"]] + (["string"] if column["notation"] not in (None, "number") else [])
    types += ["null"] if column["nullable"] else []
    field: dict[str, Any] = {"type": types[0] if len(types) == 1 else types, "examples": [column["default"]]}
    if column["categories"] is not None:
        field["description"] = "known: " + ", ".join(column["categories"])
    elif column["notation"] in _MOMENTS:
        field["description"] = EXPECTED[column["notation"]]
    elif column["min"] is not None:
        field["description"] = f"in training from {column['min']:.6g} to {column['max']:.6g}"
    return field


def _json(reference: str, example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"$ref": reference}}
    if example is not None:
        content["example"] = example
    return {"application/json": content}


def _plain(name: str, summary: str) -> dict[str, Any]:
    return {"get": {"operationId": name, "summary": summary, "responses": {"200": {"description": "as JSON"}}}}
