"""The data's part of the page: how much went in, what was dropped and why, what came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from groundup.report.bars import bar_chart, funnel
from groundup.report.figures import UNKNOWN, count, duration, number, plain, quantity, records, whole
from groundup.report.histogram import histogram
from groundup.report.markup import Html, code, facts, fold, long_table, section, table
from groundup.report.sections import Report, not_there


def data(report: Report) -> Html:
    manifest = report["data"]
    if not manifest:
        return section("data", "Data", not_there(report, "data"))
    stages, sources = records(manifest.get("stages")), records(manifest.get("sources"))
    graphics = (
        [
            funnel(_levels(stages, "documents"), title="Documents through the stages"),
            funnel(_levels(stages, "bytes"), title="Bytes through the stages", unit="B", color=2),
        ]
        if stages
        else []
    )
    reasons = Counter[str]()
    for stage in stages:
        reasons.update(_dropped(stage))
    if reasons:
        graphics.append(bar_chart(reasons.most_common(12), title="Why documents were dropped", color=1))
    tokens = [(str(s.get("name", UNKNOWN)), float(number(s.get("tokens")) or 0)) for s in sources]
    if any(value for _, value in tokens):
        graphics.append(bar_chart(sorted(tokens, key=lambda t: -t[1])[:12], title="Tokens by source"))
    tables = _stages(stages) + _sources(sources) + _splits(manifest) + _checks(manifest)
    return section(
        "data", "Data", f'<div class="charts">{"".join(graphics)}</div>{tables}{_look(report["look"] or {})}'
    )


def _look(look: dict[str, Any]) -> str:
    """How statistics are spread, and examples of what was dropped."""
    charts = "".join(
        histogram(entry["edges"], entry["counts"], entry["limits"], title=entry["tag"])
        for entry in look.get("histograms", ())
    )
    rows = [
        (reason, code(example["id"]), example["beginning"])
        for reason, examples in look.get("examples", {}).items()
        for example in examples
    ]
    shown = fold("How the statistics are spread, and where the rules cut", f'<div class="charts">{charts}</div>')
    table = long_table(["Reason", "Document", "Its beginning"], rows, what="examples", align="lll")
    return (shown if charts else "") + (fold("Examples of documents that were dropped", table) if rows else "")


def _checks(manifest: dict[str, Any]) -> str:
    """What the stages found of what was planted, validation against training, and evaluations in the documents."""
    parts = []
    planted = manifest.get("recall")
    if isinstance(planted, dict) and planted:
        rows = [
            (kind, whole(entry.get("planted")), whole(entry.get("found")), _share(entry))
            for kind, entry in planted.items()
        ]
        parts.append(table(["Planted beside the data", "Number", "Found", "Share"], rows))
    taken = manifest.get("taken_out")
    if isinstance(taken, dict) and any(taken.values()):
        parts.append(table(["Taken out in cleaning", "Number"], [(kind, whole(n)) for kind, n in taken.items() if n]))
    overlap = manifest.get("validation_overlap")
    if isinstance(overlap, dict):
        found = f"{whole(overlap.get('found'))} of {whole(overlap.get('checked'))} looked up"
        parts.append(
            facts([("Validation documents that stand in the training part", f"{found}: {overlap.get('rule')}")])
        )
    told = manifest.get("evaluations")
    if isinstance(told, dict):
        sets = [
            (code(s.get("name", UNKNOWN)), *(whole(s.get(key)) for key in ("items", "found", "unmatched")))
            for s in records(told.get("sets"))
        ]
        parts.append(table(["Evaluation set", "Items", "Found in documents", "Too short or common"], sets))
        items = [
            (code(i.get("evaluation_set")), code(i.get("item")), whole(i.get("documents")), plain(i.get("fraction"), 3))
            for i in records(told.get("items"))
        ]
        if items:
            head = ["Evaluation set", "Item", "Documents", "Largest share"]
            parts.append(fold("Evaluation items found", long_table(head, items, what="items", align="llrr")))
    return "".join(parts)


def _share(entry: dict[str, Any]) -> str:
    planted, found = number(entry.get("planted")), number(entry.get("found"))
    return plain(found / planted, 3) if planted and found is not None else UNKNOWN


def _levels(stages: Sequence[dict[str, Any]], what: str) -> list[tuple[str, float]]:
    start = float(number(stages[0].get(f"{what}_in")) or 0)
    after = [(str(s.get("name", UNKNOWN)), float(number(s.get(f"{what}_out")) or 0)) for s in stages]
    return after if after[0][1] == start else [("in", start), *after]


def _dropped(stage: dict[str, Any]) -> dict[str, int]:
    found = stage.get("dropped")
    return {str(k): int(number(v) or 0) for k, v in found.items()} if isinstance(found, dict) else {}


def _stages(stages: Sequence[dict[str, Any]]) -> str:
    if not stages:
        return ""
    head = ["Stage", "Documents in", "out", "Bytes in", "out", "Time", "CPU time", "Speed", "Dropped"]
    return table(head, [_stage(stage) for stage in stages], align="lrrrrrrrl")


def _stage(stage: dict[str, Any]) -> list[Any]:
    seconds, size = number(stage.get("seconds")), number(stage.get("bytes_in"))
    speed = quantity(size / seconds, "B/s") if seconds and size is not None else UNKNOWN
    why = ", ".join(f"{whole(n)} {reason}" for reason, n in _dropped(stage).items() if n)
    return [
        stage.get("name", UNKNOWN),
        *(whole(stage.get(key)) for key in ("documents_in", "documents_out")),
        *(quantity(stage.get(key), "B") for key in ("bytes_in", "bytes_out")),
        duration(seconds),
        duration(stage.get("cpu_seconds")),
        speed,
        why or "none",
    ]


def _sources(sources: Sequence[dict[str, Any]]) -> str:
    if not sources:
        return ""
    rows = [
        (
            source.get("name", UNKNOWN),
            code(source.get("path", UNKNOWN)),
            _files(source.get("files")),
            whole(source.get("documents")),
            quantity(source.get("bytes"), "B"),
            count(source.get("tokens")),
            plain(source.get("weight"), 3),
        )
        for source in sources
    ]
    return table(["Source", "Path", "Files", "Documents", "Bytes", "Tokens", "Weight"], rows, align="llr")


def _files(value: Any) -> str:
    """The manifest may list the files or count them."""
    return whole(len(value)) if isinstance(value, list | dict) else whole(value)


def _splits(manifest: dict[str, Any]) -> str:
    splits, tokenizer = manifest.get("splits"), manifest.get("tokenizer")
    parts = []
    if isinstance(splits, dict):
        rows = [
            (name, whole(s.get("documents")), whole(s.get("tokens")), quantity(s.get("bytes"), "B"))
            for name, s in splits.items()
            if isinstance(s, dict)
        ]
        parts.append(table(["Split", "Documents", "Tokens", "Bytes"], rows))
    known = tokenizer if isinstance(tokenizer, dict) else {}
    known_facts = [
        ("Vocabulary", whole(known.get("vocab_size"))),
        ("Bytes per token", plain(known.get("bytes_per_token"), 3)),
        ("Tokenizer", code(known.get("path", UNKNOWN))),
        ("Tokenizer's SHA-256", code(known.get("sha256", UNKNOWN))),
        ("Encoder", code(" ".join(str(known[key]) for key in ("encoder", "fallback") if known.get(key)) or UNKNOWN)),
        ("Encoder's Unicode", code(known.get("unicode", UNKNOWN))),
        ("Number format of the shards", code(manifest.get("dtype", UNKNOWN))),
        ("Fingerprint", code(manifest.get("fingerprint", UNKNOWN))),
    ]
    parts.append(facts(known_facts))
    return f'<div class="split">{"".join(parts)}</div>'
