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
    curves = found["curves"]
    resumed = [(float(step), "resumed") for step in found["resumed_at"]]

    def measured(name: str, color: int) -> list[Series]:
        one = curves[f"train_{name}"]
        return _series("logged", one, "thin", color) + _series("smoothed", one, "thick", color, y="smoothed")

    loss, validation = curves["train_loss"], curves["validation_loss"]
    best = found["best_validation"]
    charts = [
        line_chart(
            _series("training", loss, "thin", 0)
            + _series("training, smoothed", loss, "thick", 0, y="smoothed")
            + _series("validation", validation, "points", 1),
            title="Loss",
            x_label="step",
            y_label="nats per token",
            marks=resumed,
            note=f"best validation {plain(best['loss'])} at step {whole(best['step'])}" if best else "",
            wide=True,
        ),
        line_chart(
            _series("training, smoothed", loss, "thick", 0, y="smoothed", x="tokens")
            + _series("validation", validation, "points", 1, x="tokens"),
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
        line_chart(
            _series("learning rate", curves["train_lr"], "thick", 2),
            title="Learning rate",
            x_label="step",
            y_zero=True,
        ),
        line_chart(measured("grad_norm", 3), title="Gradient norm", x_label="step", log_y=True),
        line_chart(
            measured("tokens_per_second", 0),
            title="Tokens per second",
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
