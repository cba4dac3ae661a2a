"""Whether a run folder's checkpoints are of the training that is asked for. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from groundup.errors import UserError
from groundup.recipe import show
from groundup.recipe.load import LoadedRecipe, load
from groundup.rundir import RunDir
from groundup.train.manifest import Manifest, checkpoints_of

# Keys of a recipe with which data, tokenizer or model become others, by the name under which they may be allowed.
_DECIDING = re.compile(
    r"(?P<allowed>task|seed|data|tokenizer|model\.[a-z_]+)(\b.*)|train\.(?P<train>sequence_length|packing)"
)
_NAMES = ("task", "data", "tokenizer", "model", "seed", "sequence_length", "packing")
_HARMLESS = re.compile(
    r"data\.(memory|workers|max_malformed_fraction|cleaned|sources\[\d+\]\.(name|weight|epochs))|tokenizer\.encoder|"
    r"model\.(preset|vocab_size)"
)


def refuse_another_recipe(loaded: LoadedRecipe, run: RunDir, allowed: Collection[str] = ()) -> None:
    """Raise UserError where the folder has checkpoints of a recipe that asks for other data or another model, before
    any of its files is replaced. `allowed`: as of refuse_another."""
    try:
        old = load(run.recipe_file)
    except UserError:
        return  # there is none, or one of another version
    differing: dict[str, str] = {}
    for key, (before, after) in show.changes(old, loaded).items():
        found = _DECIDING.fullmatch(key)
        if found is not None and not _HARMLESS.fullmatch(key):
            differing.setdefault(found["allowed"] or found["train"], f"{key} was {before}, is {after}")
    checkpoints = checkpoints_of(old.recipe, run)
    if differing and checkpoints.complete():
        _refuse_unknown({name for name in allowed if name.split(".")[0] not in _NAMES}, _NAMES)
        _refuse(differing, allowed, checkpoints.storage.place)


def refuse_another(
    manifest: Manifest, identity: dict[str, Any], place: str, allowed: Collection[str] = ()
) -> list[str]:
    """Raise UserError where a checkpoint is of another model or other data, naming what differs.

    `allowed`: keys that may differ, such as data or model.dropout; what of them does is returned.
    """
    differing = _differences(manifest["identity"], identity)
    unknown = (
        set(allowed)
        - set(identity)
        - set(differing)
        - {f"{k}.{inner}" for k, v in identity.items() if isinstance(v, dict) for inner in v}
    )
    _refuse_unknown(unknown, identity)
    _refuse(differing, allowed, place)
    return list(differing.values())


def _refuse_unknown(unknown: set[str], names: Collection[str]) -> None:
    if unknown:
        raise UserError(f"nothing is called {min(unknown)!r}", where="--allow", expected="one of " + ", ".join(names))


def _refuse(differing: dict[str, str], allowed: Collection[str], place: str) -> None:
    refused = {key: what for key, what in differing.items() if key not in allowed and key.split(".")[0] not in allowed}
    if refused:
        raise UserError(
            "the checkpoint here is of another training: " + "; ".join(refused.values()),
            where=place,
            advice="Undo the change, give another --run-dir, start over with --restart, or go on all the same with "
            + " ".join(f"--allow {key}" for key in refused),
        )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    """What differs, by key; of what only one side knows too."""
    found = {}
    for key in {**old, **new}:
        before, now = old.get(key), new.get(key)
        if before == now:
            continue
        if isinstance(now, dict) and isinstance(before, dict):
            for inner in {**before, **now}:
                if before.get(inner) != now.get(inner):
                    found[f"{key}.{inner}"] = f"{key}.{inner} was {before.get(inner)}, is {now.get(inner)}"
        else:
            found[key] = f"{key} was {before}, is {now}"
    return found
