"""How many documents each stage let through, and why the others fell."""

from __future__ import annotations

from typing import Any

from groundup.data.stage import Stage
from groundup.data.stages.run import table


def funnel(manifest: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The stages of a prepared run as JSON and for a person."""
    stages = [Stage(**stage) for stage in manifest["stages"]]
    lines = [table(stages), ""]
    for stage in stages:
        for reason, number in sorted(stage.dropped.items(), key=lambda entry: -entry[1]):
            lines.append(f"{stage.name:<16}{number:>12,}  {reason}")
    overlap = manifest["validation_overlap"]
    seen = f"{overlap['found']:,} of {overlap['checked']:,} looked up ({overlap['rule']})"
    lines.append(f"validation documents that stand in the training part: {seen}")
    for kind, planted in manifest.get("recall", {}).items():
        lines.append(f"planted beside the data and found: {planted['found']} of {planted['planted']}  {kind}")
    for entry in manifest.get("evaluations", {}).get("sets", ()):
        lines.append(f"evaluation items that stand in documents: {entry['found']} of {entry['items']}  {entry['name']}")
    keys = ("stages", "splits", "sources", "taken_out", "validation_overlap", "recall", "evaluations")
    return {key: manifest[key] for key in keys if key in manifest}, "\n".join(lines)
