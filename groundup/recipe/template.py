"""The recipe that `groundup init` writes."""

from __future__ import annotations

import json
from pathlib import Path

from groundup.errors import UserError

_TEMPLATE = """\
# A Groundup recipe. Every key and its default: groundup recipe show {file}
# From here to a served model: groundup run {file}
name = {name}
task = "language-model"

[data]
# Also: .md .jsonl .csv .parquet, plain or .gz .zst; folders; globs; hf://datasets/OWNER/NAME; pypi:NAME==VERSION
sources = [{{ path = {data} }}]
validation_fraction = 0.05

[tokenizer]
vocab_size = 4096

[model]
preset = "tiny"

[optim]
optimizer = "muon"
lr = 0.01
warmup = "20 steps"
schedule = "warmup-stable-decay"

[train]
duration = "1 epochs"
batch_tokens = 8192
sequence_length = 256
micro_batch = 16
"""


def write_template(file: Path, data: str) -> None:
    """Raises UserError where the file exists or can't be written."""
    name = file.stem if file.stem != "recipe" else file.absolute().parent.name
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in name).lstrip("._-") or "run"
    text = _TEMPLATE.format(file=file, name=json.dumps(safe), data=json.dumps(data))
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise UserError("exists already and is left alone", where=str(file), advice="Name another file") from None
    except OSError as error:
        raise UserError(f"can't be written: {error.strerror}", where=str(file)) from None
