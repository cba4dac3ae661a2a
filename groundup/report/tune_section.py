"""The search's part of the page: the learning-rate range test, the trials, and what mattered."""

from __future__ import annotations

from typing import Any

from groundup.report.bars import bar_chart
from groundup.report.charts import Series, line_chart
from groundup.report.figures import UNKNOWN, duration, number, plain, short, whole
from groundup.report.markup import Html, code, facts, fold, long_table, pill, section, table
from groundup.report.sections import Report

_SPAN = 100.0  # values that reach over more than this factor are drawn on a log axis


def tuning(report: Report) -> Html:
    found = report["tune"]
    metric = str(found.get("metric") or "value")
    charts = [_range_test(found), _trials(found, metric), *(_key(found, metric, key) for key in found["keys"])]
    charts.append(_importance(found))
    body = _best(found) + f'<div class="charts">{"".join(filter(None, charts))}</div>'
    body += _range_table(found) + _table(found, metric)
    goal = "highest" if found.get("direction") == "maximize" else "lowest"
    return section("tuning", "Tuning", body, lead=f"A search for the {goal} validation {metric}.")


def _best(found: dict[str, Any]) -> str:
    best, test = found.get("best"), found.get("range_test")
    counts = found["counts"]
    trials = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    rows: list[tuple[Any, Any]] = [
        (f"Best {found.get('metric', 'value')}", plain(found.get("best_value"), 5)),
        ("Of trial", whole(found.get("best_trial"))),
        ("Trials", trials or "none yet"),
        ("Time of the trials", duration(found["seconds"])),
    ]
    if isinstance(test, dict) and number(test.get("suggestion")) is not None:
        rows.append(("Learning rate that the range test suggests", plain(test["suggestion"], 3)))
    if found["recipe"]:
        rows.append(("The best recipe", code(found["recipe"])))
    keys = [(code(key), _written(value)) for key, value in best.items()] if isinstance(best, dict) else []
    return f'<div class="split">{facts(keys)}{facts(rows)}</div>' if keys else str(facts(rows))


def _curve(test: dict[str, Any], name: str) -> list[float | None]:
    """As long as the learning rates; gaps for what is no number."""
    rates = test.get("lr")
    values = test.get(name)
    length = len(rates) if isinstance(rates, list) else 0
    known = [number(value) for value in values] if isinstance(values, list) else []
    return [*known, *[None] * length][:length]


def _range_test(found: dict[str, Any]) -> str:
    test = found.get("range_test")
    if not isinstance(test, dict):
        return ""
    rates, suggestion = _curve(test, "lr"), number(test.get("suggestion"))
    raw, smoothed = _curve(test, "loss"), _curve(test, "smoothed")
    return line_chart(
        [Series("loss", rates, raw, "thin", 0), Series("smoothed", rates, smoothed, "thick", 0)],
        title="Learning-rate range test",
        note=f"suggestion {plain(suggestion, 3)}" if suggestion is not None else "no suggestion",
        x_label="learning rate",
        y_label="training loss",
        log_x=True,
        log_y=_wide(smoothed, 10.0),
        marks=[(suggestion, f"suggestion {plain(suggestion, 3)}")] if suggestion is not None else [],
        wide=True,
    )


def _range_table(found: dict[str, Any]) -> str:
    test = found.get("range_test")
    if not isinstance(test, dict):
        return ""
    columns = zip(_curve(test, "lr"), _curve(test, "loss"), _curve(test, "smoothed"), strict=True)
    rows = [tuple(plain(value) for value in line) for line in columns]
    body = f'<div class="scroll" tabindex="0">{table(["Learning rate", "Loss", "Smoothed"], rows, align="rrr")}</div>'
    return fold(f"The range test's {len(rows)} steps as a table", body) if rows else ""


def _wide(values: list[float | None], factor: float = _SPAN) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and min(known) > 0 and max(known) / min(known) > factor


def _of(trials: list[dict[str, Any]], state: str) -> list[dict[str, Any]]:
    return [trial for trial in trials if trial.get("state") == state and trial["value"] is not None]


def _trials(found: dict[str, Any], metric: str) -> str:
    trials, counts = found["trials"], found["counts"]
    complete, pruned = _of(trials, "complete"), _of(trials, "pruned")
    numbers = [trial["number"] for trial in trials]
    return line_chart(
        [
            Series("best so far", numbers, found["best_so_far"], "step", 2),
            Series("complete", [t["number"] for t in complete], [t["value"] for t in complete], "dots", 0),
            Series("pruned", [t["number"] for t in pruned], [t["value"] for t in pruned], "dots", 1),
        ],
        title="Trials",
        note=", ".join(f"{n} {state}" for state, n in counts.items() if n),
        x_label="trial",
        y_label=metric,
        log_y=_wide([trial["value"] for trial in complete + pruned]),
        wide=True,
    )


def _key(found: dict[str, Any], metric: str, key: str) -> str:
    """The values that one key took against what came of them."""
    trials = [t for t in found["trials"] if key in t["values"] and t["value"] is not None]
    names = _names([trial["values"][key] for trial in trials])

    def dots(state: str, color: int, words: str) -> Series:
        chosen = [t for t in _of(trials, state) if (t["number"] == found.get("best_trial")) == (words == "best")]
        placed = sorted((place(t["values"][key]), t["value"]) for t in chosen)
        return Series(words, [x for x, _ in placed], [y for _, y in placed], "dots", color)

    def place(value: Any) -> float:
        return float(names.index(_written(value)) if names else value)

    return line_chart(
        [dots("complete", 0, "complete"), dots("pruned", 1, "pruned"), dots("complete", 2, "best")],
        title=key,
        x_label=key,
        y_label=metric,
        log_x=not names and _wide([number(t["values"][key]) for t in trials]),
        log_y=_wide([trial["value"] for trial in trials]),
        x_names=names,
    )


def _names(values: list[Any]) -> list[str]:
    """The values in words, each once, where they are not all numbers."""
    if all(number(value) is not None for value in values):
        return []
    return sorted({_written(value) for value in values})


def _written(value: Any) -> str:
    if number(value) is not None:
        return str(value) if isinstance(value, int) else plain(value, 4)
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return UNKNOWN if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _importance(found: dict[str, Any]) -> str:
    shares = found.get("importance")
    known = {k: number(v) for k, v in shares.items()} if isinstance(shares, dict) else {}
    bars = sorted(((k, v) for k, v in known.items() if v is not None), key=lambda one: -one[1])
    return bar_chart(bars, title="What mattered", unit="%", color=2) if bars else ""


def _table(found: dict[str, Any], metric: str) -> str:
    trials, best = found["trials"], number(found.get("best_trial"))
    if not trials:
        return ""
    sign = -1 if found.get("direction") == "maximize" else 1

    def order(trial: dict[str, Any]) -> tuple[int, float]:
        """Complete ones first, the best at the top; then pruned ones; those without a value last."""
        rank = {"complete": 0, "pruned": 1}.get(str(trial.get("state")), 2)
        return (3, trial["number"]) if trial["value"] is None else (rank, sign * trial["value"])

    rows = [
        (
            whole(trial["number"]),
            _state(trial, best),
            plain(trial["value"], 5),
            *(_written(trial["values"].get(key)) for key in found["keys"]),
            duration(trial.get("seconds")),
        )
        for trial in sorted(trials, key=order)
    ]
    head = ["Trial", "State", metric, *found["keys"], "Time"]
    body = long_table(head, rows, what="trials", align="rlr")
    return f"<h3>Trials</h3>{body}"


def _state(trial: dict[str, Any], best: float | None) -> str:
    state = str(trial.get("state") or UNKNOWN)
    if state == "complete" and best is not None and trial["number"] == best:
        return pill("best", "good")
    if state == "pruned" and trial["steps"]:
        return f"pruned at step {whole(trial['steps'][-1][0])}"
    reason = trial.get("reason")
    return f"{state}: {short(reason, 120)}" if reason else state
