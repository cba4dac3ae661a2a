"""The evaluation's part of a classifier's page: metrics, classes, the confusion matrix and ROC curves."""

from __future__ import annotations

from typing import Any

from groundup.report.charts import Series, line_chart
from groundup.report.classifier_summary import confusion, points
from groundup.report.figures import UNKNOWN, number, percent, plain, records, short, whole
from groundup.report.heatmap import MAX_CLASSES, WIDE, heat_map
from groundup.report.markup import Html, facts, long_table, section, table
from groundup.report.sections import Report, not_there

MAX_CURVES = 10
_LEADS = {
    "test": "On the whole test part, which training never saw.",
    "validation": "On the validation part, by which the checkpoint was chosen: there are no test rows.",
    "train": "On the training rows: there are no others.",
}


def classification(report: Report) -> Html:
    found = report["evaluation"]
    if not found:
        return section("evaluation", "Evaluation", not_there(report, "evaluation"))
    labels, counts = confusion(found)
    graphics = []
    if counts is not None and len(labels) <= MAX_CLASSES:
        graphics.append(heat_map(labels, counts, title="Confusion matrix"))
    roc = _roc(report)
    if roc:
        graphics.append(roc)
    rows = [
        ("Accuracy", plain(found.get("accuracy"))),
        ("F1, weighted by rows", plain(found.get("f1_weighted"))),
        ("F1, mean of the classes", plain(found.get("f1_macro"))),
        ("ROC-AUC", plain(found.get("roc_auc"))),
        ("Loss, nats per row", plain(found.get("loss"))),
        ("Rows", whole(found.get("rows"))),
        ("Classes", whole(found.get("classes"))),
        ("Step", whole(found.get("step"))),
    ]
    charts = f'<div class="charts">{"".join(graphics)}</div>' if graphics else ""
    pairs = _mistakes(report, 20 if len(labels) > MAX_CLASSES else len(rows) - 1)
    body = f'<div class="split">{facts(rows)}<div>{pairs}</div></div>{charts}{_classes(report)}'
    return section("evaluation", "Evaluation", body, lead=_LEADS.get(str(found.get("part")), ""))


def _mistakes(report: Report, most: int) -> str:
    pairs = report["classifier"]["confused"][:most]
    if not pairs:
        return ""
    rows = [(_label(p["true"]), _label(p["predicted"]), whole(p["rows"]), percent(p["share"])) for p in pairs]
    return table(["Commonest mistakes", "taken for", "Rows", "of the class"], rows, align="llrr")


def _roc(report: Report) -> str:
    curves = list(zip(records(report["evaluation"].get("roc")), report["classifier"]["auc"], strict=True))
    drawn = sorted(curves, key=lambda one: number(one[1]["auc"]) or 0.0)[:MAX_CURVES]
    chosen = [one for one in curves if any(one is other for other in drawn)]
    series = []
    for color, (curve, area) in enumerate(chosen):
        path = points(curve)
        name = f"{short(_label(curve.get('label')), 24)}  {plain(area['auc'])}"
        series.append(Series(name, [x for x, _ in path], [y for _, y in path], "thick", color))
    if not series:
        return ""
    note = f"AUC by class; the {len(series)} lowest of {len(curves)}" if len(curves) > len(series) else "AUC by class"
    return line_chart(
        [*series, Series("chance", [0.0, 1.0], [0.0, 1.0], "thin", 9)],
        title="ROC curves",
        note=note,
        x_label="false positive rate",
        y_label="true positive rate",
        y_zero=True,
        wide=len(report["classifier"]["labels"]) > WIDE,
        square=True,
    )


def _classes(report: Report) -> str:
    areas = {_label(one["label"]): one["auc"] for one in report["classifier"]["auc"]}
    found = records(report["evaluation"].get("per_class"))
    if not found:
        return ""
    head = ["Class", "Rows", "Precision", "Recall", "F1"]
    rows = [
        [
            _label(one.get("label")),
            whole(one.get("rows")),
            *(plain(one.get(key)) for key in ("precision", "recall", "f1")),
        ]
        for one in found
    ]
    if len(areas) > 1:  # of two classes one has a curve, and its area stands above
        head.append("ROC-AUC")
        rows = [[*row, plain(areas.get(row[0]))] for row in rows]
    body = long_table(head, rows, what="classes")
    return f"<h3>Classes</h3>{body}"


def _label(value: Any) -> str:
    return UNKNOWN if value is None else str(value)
