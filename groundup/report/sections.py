"""The parts of the report's page, each made of what `collect` found."""

from __future__ import annotations

from typing import Any

from groundup.report import markup
from groundup.report.figures import UNKNOWN, count, duration, number, percent, plain, quantity, records, whole
from groundup.report.markup import Html, absent, code, facts, fold, section, table, text, written

Report = dict[str, Any]


def not_there(report: Report, part: str) -> Html:
    """One line in place of a part that is missing: what to run."""
    for missing in report["missing"]:
        if missing["part"] == part:
            return absent(Html(f"{text(missing['what'])}: {code(missing['command'])}"))
    return absent("Its file can't be read; the reason is at the top of this page.")


def header(report: Report) -> Html:
    run, lineage = report["run"], report["lineage"] or {}
    software = lineage.get("groundup")
    version = software.get("version") if isinstance(software, dict) else None
    facts = [run["task"], f"groundup {version}" if version else None, lineage.get("created"), run["path"]]
    below = " · ".join(text(fact) for fact in facts if fact)
    return Html(f"<header><h1>{text(run['name'])}</h1><p>{below}</p>{_course(report)}</header>")


def _course(report: Report) -> str:
    """The steps of the course: which are done, and how long each took."""
    items = []
    progress = report["progress"]
    for step in report["steps"]:
        done = step["status"] in ("done", "skipped")
        words = duration(step.get("seconds")) if done else str(step["status"] or "not yet")
        state = "done" if done else "open"
        if step["name"] == "train" and not done and report["training"]:
            state = "under-way"
            words = f"at step {whole(report['headline']['step'])}"
            if progress:
                words += f", {percent(progress['fraction'])} of {progress['asked']}"
        items.append(f'<li class="{state}"><b>{text(step["name"])}</b><span>{text(words)}</span></li>')
    tune = report["tune"]
    if tune and report["run"]["only_tuned"]:
        trials, asked = len(tune["trials"]), tune["asked"]
        state = "under-way" if asked and trials < asked else "done"
        words = f"{trials} of {whole(asked)} trials" if asked else f"{trials} trials"
        items.append(f'<li class="{state}"><b>tune</b><span>{words}, {duration(tune["seconds"])}</span></li>')
    return f'<ol class="course">{"".join(items)}</ol>'


def notices(report: Report) -> Html:
    """What a reader must know before trusting the numbers."""
    lines = [text(problem) for problem in report["problems"]]
    training, evaluation = report["training"], report["evaluation"]
    if training and training["losses_not_finite"]:
        gaps = training["losses_not_finite"]
        lines.append(f"Logged training losses that are not finite: {gaps}. The curve has gaps there.")
    at, now = number((evaluation or {}).get("step")), report["headline"]["step"]
    if report["run"]["checkpoint"] == "best":
        now = ((training or {}).get("best_validation") or {}).get("step")
    if at is not None and now is not None and at < now:
        done = "the best validation was at" if report["run"]["checkpoint"] == "best" else "the model was trained to"
        lines.append(f"The evaluation is of step {whole(at)}; {done} step {whole(now)} since.")
    return Html("".join(f'<p class="notice">{line}</p>' for line in lines))


def samples(report: Report) -> Html:
    """What the model wrote, as it learned."""
    found = report["samples"]
    if not found:
        words = Html("no samples yet: <code>train.sample_every</code> sets their distance")
        return section("samples", "Samples over time", absent(words))
    shown = found["shown"]
    lead = ""
    if len(shown) < found["steps_sampled"]:
        lead = f"{len(shown)} of {found['steps_sampled']} sampled steps; all are in metrics.jsonl."
    entries = "".join(
        f'<li><div class="when">step <b>{whole(entry["step"])}</b></div><div class="texts">'
        + "".join(_sample(one) for one in entry["texts"])
        + "</div></li>"
        for entry in shown
    )
    return section("samples", "Samples over time", f'<ol class="timeline">{entries}</ol>', lead=lead)


def _sample(one: dict[str, Any]) -> str:
    """A text with its prompt set apart, whether the text repeats it or not."""
    prompt, body = str(one.get("prompt") or ""), str(one.get("text") or "")
    start = f'<b class="prompt">{written(prompt)}</b>' if prompt else ""
    return f"<blockquote>{start}{written(body.removeprefix(prompt))}</blockquote>"


def evaluation(report: Report) -> Html:
    found = report["evaluation"]
    if not found:
        return section("evaluation", "Evaluation", not_there(report, "evaluation"))
    rows = [
        ("Loss, nats per token", plain(found.get("loss"), 5)),
        ("Perplexity", plain(found.get("perplexity"), 5)),
        ("Bits per byte", plain(found.get("bits_per_byte"), 5)),
        ("Tokens", whole(found.get("tokens"))),
        ("Bytes of text", whole(found.get("bytes"))),
        ("Step", whole(found.get("step"))),
    ]
    texts = "".join(_sample(one) for one in records(found.get("samples")))
    body = f'<div class="split">{facts(rows)}<div>{texts}</div></div>'
    return section("evaluation", "Evaluation", body, lead="On the whole validation part.")


def export(report: Report) -> Html:
    found = report["export"]
    if not report["exports"]:
        words = Html(f"The recipe asks for none: {code('export.enabled = false')}")
        return section("export", "Export", absent(words))
    if not found:
        return section("export", "Export", not_there(report, "export"))
    difference, tolerance = number(found.get("max_logit_difference")), number(found.get("tolerance"))
    # A classifier's tolerance is a share of its largest logit.
    share = number(found.get("relative_difference"))
    compared = difference if share is None else share
    passed = compared is not None and tolerance is not None and compared <= tolerance
    reference = _reference(found) if report["run"]["unit"] == "rows" else "transformers"
    verdict = f"agrees with {reference}" if passed else f"not shown to agree with {reference}"
    rows = [
        ("Check", markup.pill(verdict, "good" if passed else "bad")),
        ("Largest difference of a logit", count(difference)),
        *([] if share is None else [("as a share of the largest logit", count(share))]),
        ("Allowed", count(tolerance)),
        *([("Compared on", f"{whole(found['rows'])} {found.get('checked', 'rows')}")] if "rows" in found else []),
        *([("Architecture", code(found["architecture"]))] if "architecture" in found else []),
        ("Folder", code(found.get("path", UNKNOWN))),
    ]
    files = found.get("files")
    listed = [(code(name), code(sha)) for name, sha in files.items()] if isinstance(files, dict) else []
    sums = table(["File", "SHA-256"], listed, align="l")
    below = fold(f"SHA-256 of {len(listed)} files", sums) if listed else ""
    return section("export", "Export", facts(rows) + below)


def _reference(found: dict[str, Any]) -> str:
    """What a classifier's logits were compared with."""
    files = found.get("files")
    return "onnxruntime" if isinstance(files, dict) and "model.onnx" in files else "the folder read back"


def plan(report: Report) -> Html:
    found = report["plan"]
    if not found:
        return section("plan", "Model", not_there(report, "plan"))
    parameters = found.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    rows = [(f"Parameters, {key}", whole(value)) for key, value in parameters.items()]
    one = report["run"]["unit"].removesuffix("s")
    rows.append((f"FLOPs per {one}", quantity(found.get(f"flops_per_{one}"), "FLOP")))
    rows.append(("Bytes of training state", quantity(found.get("state_bytes"), "B")))
    layers = records(found.get("layers"))
    keys = list(dict.fromkeys(key for layer in layers for key in layer))
    cells = [[_cell(layer.get(key)) for key in keys] for layer in layers]
    body = table([key.replace("_", " ") for key in keys], cells)
    return section("plan", "Model", facts(rows) + (fold(f"{len(layers)} layers", body) if layers else ""))


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return whole(value)
    if isinstance(value, list):
        return " × ".join(map(str, value))  # noqa: RUF001 (shapes are written with a multiplication sign)
    return "" if value is None else plain(value) if number(value) is not None else str(value)


def lineage(report: Report) -> Html:
    found = report["lineage"]
    rows = [(code(key), value) for key, value in markup.flat(found)] if found else []
    body = facts(rows) if rows else absent("Not recorded.")
    steps = [
        [
            step["name"],
            step["status"],
            step.get("finished"),
            code(step.get("fingerprint")),
            duration(step.get("seconds")),
        ]
        for step in report["steps"]
        if step["status"]
    ]
    head = ["Step", "Status", "Finished", "Fingerprint of its inputs", "Time"]
    return section("lineage", "Lineage", body + (table(head, steps, align="llllr") if steps else ""))
