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
    return {"stages": manifest["stages"], "splits": manifest["splits"], "sources": manifest["sources"]}, "\n".join(
        lines
    )
