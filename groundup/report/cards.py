"""The numbers at the top of the page: those of a language model, of a classifier, or of a search."""

from __future__ import annotations

from typing import Any

from groundup.report.figures import UNKNOWN, count, duration, number, percent, plain, quantity, whole
from groundup.report.markup import Html, text
from groundup.report.sections import Report

Card = tuple[str, str, str]


def cards(report: Report) -> Html:
    """A name, a value and a line below it each; what is not known yet is pale."""
    if report["run"]["only_tuned"]:
        cells = _search(report["tune"])
    else:
        first = _classifier(report) if report["run"]["unit"] == "rows" else _language_model(report)
        cells = [*first, *_training(report)]
    return Html(
        f'<div class="cards{" many" if len(cells) > 7 else ""}">'
        + "".join(
            f'<div class="card{" unknown" if value == UNKNOWN else ""}"><span>{text(name)}</span>'
            f"<b>{text(value)}</b><small>{text(below)}</small></div>"
            for name, value, below in cells
        )
        + "</div>"
    )


def _measured_at(head: dict[str, Any]) -> str:
    known = head["quality_of"]
    return f"{known}, step {whole(head['quality_step'])}" if known else "not measured yet"


def _language_model(report: Report) -> list[Card]:
    head = report["headline"]
    at = _measured_at(head)
    return [
        ("Bits per byte", plain(head["bits_per_byte"]), at),
        ("Perplexity", plain(head["perplexity"]), f"loss {plain(head['loss'])}" if head["quality_of"] else at),
    ]


def _classifier(report: Report) -> list[Card]:
    head = report["headline"]
    known = head["quality_of"]
    loss = f"loss {plain(head['loss'])}" if known else _measured_at(head)
    area = f"ROC-AUC {plain(head['roc_auc'])}" if known == "evaluation" else loss
    features = f"{whole(head['features'])} features" if number(head["features"]) is not None else "not prepared yet"
    return [
        ("Accuracy", plain(head["accuracy"]), _measured_at(head)),
        ("F1, weighted", plain(head["f1_weighted"]), loss),
        ("F1, macro", plain(head["f1_macro"]), area),
        ("Test rows", count(head["test_rows"]), features),
        ("Classes", whole(head["classes"]), "of the target"),
    ]


def _training(report: Report) -> list[Card]:
    head, unit = report["headline"], report["run"]["unit"]
    plan = (report["plan"] or {}).get("parameters")
    plan = plan if isinstance(plan, dict) else {}
    active = number(plan.get("active"))
    below = f"{count(active)} active per token" if active and active != plan.get("total") else ""
    if not below and number(plan.get("embedding")) is not None:
        below = f"{count(plan['embedding'])} of them embedding"
    if not below and number(plan.get("matrices")) is not None:
        below = f"{count(plan['matrices'])} of them in matrices"
    speed = quantity(head["flops_per_second"], "FLOP/s")
    return [
        (f"{unit.capitalize()} trained", count(head[unit]), f"{whole(head['step'])} steps"),
        ("Training time", duration(head["train_seconds"]), f"all steps {duration(head['all_steps_seconds'])}"),
        (f"{unit.capitalize()} per second", count(head[f"{unit}_per_second"]), "median"),
        ("Share of peak", percent(head["peak_share"]), f"{speed}, median"),
        ("Parameters", count(head["parameters"]), below or UNKNOWN),
    ]


def _search(found: dict[str, Any]) -> list[Card]:
    counts = found["counts"]
    test = found.get("range_test")
    suggestion = number(test.get("suggestion")) if isinstance(test, dict) else None
    goal = "highest" if found.get("direction") == "maximize" else "lowest"
    states = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    return [
        (f"Best {found.get('metric', 'value')}", plain(found.get("best_value")), f"the {goal} on validation"),
        ("Of trial", whole(found.get("best_trial")), f"{len(found['keys'])} keys searched"),
        ("Trials", whole(len(found["trials"])), states or "none yet"),
        ("Learning rate", plain(suggestion, 3), "suggested by the range test"),
        ("Time", duration(found["seconds"]), "of all trials"),
    ]
