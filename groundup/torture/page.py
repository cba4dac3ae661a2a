"""The table of faults, for people and for docs/reliability.md."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from groundup.console import span
from groundup.errors import UserError

BEGIN, END = "<!-- made by groundup torture -->", "<!-- end of what groundup torture made -->"


def table(document: dict[str, Any]) -> str:
    """Markdown: what was done, how often, and what came of it."""
    count = sum(document["faults"].values())
    rows = ["| fault | times |", "|---|---:|"]
    rows += [f"| {kind} | {times} |" for kind, times in document["faults"].items()]
    rows.append(f"| **all** | **{count}** |")
    verdict = "Nothing differed." if document["passed"] else "THIS RUN FAILED."
    identical = "the same to the bit" if document["identical_where_promised"] else "NOT the same"
    return "\n".join(
        [
            *rows,
            "",
            f"{document['rounds']} trainings, {document['restarts']} restarts, {span(document['seconds'])}. {verdict}",
            f"Samples lost: {document['samples_lost']}; repeated: {document['samples_repeated']}; dropped, as in the "
            f"undisturbed training: {document['samples_dropped']}.",
            f"In the layout of the undisturbed training losses and final tensors are {identical}; in others losses "
            f"differ by at most {document['worst_loss_difference']:.1e}, and final weights by "
            f"{document['worst_weight_difference']:.1e} of their norm.",
            f"Layouts: {', '.join(document['layouts'])}.",
        ]
    )


def write_page(path: Path, document: dict[str, Any]) -> None:
    """Put the table between its marks on the page, or at its end. Raises UserError where it can't be written."""
    command = f"`groundup torture`, recipe `{document['recipe']}`, seed {document['seed']}"
    text = f"{BEGIN}\n{command}, {datetime.date.today().isoformat()}:\n\n{table(document)}\n{END}"
    try:
        old = path.read_text() if path.exists() else ""
        before, found, rest = old.partition(BEGIN)
        after = rest.partition(END)[2] if found else "\n"
        path.write_text(f"{before if found else old}{text}{after}")
    except OSError as error:
        raise UserError(f"can't be written: {error.strerror}", where=str(path)) from None
