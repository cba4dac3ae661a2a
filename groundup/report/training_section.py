"""The training's part of the page: how the loss fell, how fast it went, and how steady it was."""

from __future__ import annotations

from typing import Any

from groundup.report.charts import Series, Style, line_chart
from groundup.report.figures import plain, quantity, whole
from groundup.report.markup import Html, section
from groundup.report.sections import Report, not_there


def _series(
    name: str, found: dict[str, Any] | None, style: Style, color: int, *, y: str = "value", x: str = "step"
) -> list[Series]:
    """The curve as a list to join with others; empty where nothing was measured."""
    return [Series(name, found[x], found[y], style, color)] if found else []


def training(report: Report) -> Html:
    found = report["training"]
    if not found:
        return section("training", "Training", not_there(report, "training"))
    curves, unit = found["curves"], report["run"]["unit"]
    resumed = [(float(step), "resumed") for step in found["resumed_at"]]

    def measured(name: str, color: int) -> list[Series]:
        one = curves[f"train_{name}"]
        return _series("logged", one, "thin", color) + _series("smoothed", one, "thick", color, y="smoothed")

    loss, validation = curves["train_loss"], curves["validation_loss"]
    charts = [
        line_chart(
            _series("training", loss, "thin", 0)
            + _series("training, smoothed", loss, "thick", 0, y="smoothed")
            + _series("validation", validation, "points", 1),
            title="Loss",
            x_label="step",
            y_label=f"nats per {unit.removesuffix('s')}",
            marks=resumed,
            note=_best(found),
            wide=True,
        ),
        *(_classifier(curves) if unit == "rows" else _language_model(curves)),
        line_chart(
            _series("learning rate", curves["train_lr"], "thick", 2),
            title="Learning rate",
            x_label="step",
            y_zero=True,
        ),
        line_chart(measured("grad_norm", 3), title="Gradient norm", x_label="step", log_y=True),
        line_chart(
            measured(f"{unit}_per_second", 0),
            title=f"{unit.capitalize()} per second",
            x_label="step",
            y_zero=True,
            marks=resumed,
        ),
        line_chart(
            measured("peak_share", 2),
            title="Share of the measured peak",
            x_label="step",
            y_zero=True,
            y_percent=True,
            note=f"median {quantity(found['median']['flops_per_second'], 'FLOP/s')}",
        ),
    ]
    return section("training", "Training", f'<div class="charts">{"".join(charts)}</div>')


def _best(found: dict[str, Any]) -> str:
    best, metric = found["best_validation"], found["best_metric"]
    if not best:
        return ""
    name = "validation" if metric == "loss" else f"validation {metric}"
    return f"best {name} {plain(best[metric])} at step {whole(best['step'])}"


def _language_model(curves: dict[str, Any]) -> list[str]:
    return [
        line_chart(
            _series("training, smoothed", curves["train_loss"], "thick", 0, y="smoothed", x="tokens")
            + _series("validation", curves["validation_loss"], "points", 1, x="tokens"),
            title="Loss over tokens, both logarithmic",
            x_label="tokens",
            y_label="nats per token",
            log_x=True,
            log_y=True,
        ),
        line_chart(
            _series("validation", curves["validation_bits_per_byte"], "points", 1),
            title="Bits per byte on validation",
            x_label="step",
            y_label="bits per byte",
        ),
    ]


def _classifier(curves: dict[str, Any]) -> list[str]:
    return [
        line_chart(
            _series("accuracy", curves["validation_accuracy"], "points", 0)
            + _series("F1, weighted", curves["validation_f1_weighted"], "points", 1)
            + _series("F1, macro", curves["validation_f1_macro"], "points", 2),
            title="Accuracy and F1 on validation",
            x_label="step",
            wide=True,
        )
    ]
