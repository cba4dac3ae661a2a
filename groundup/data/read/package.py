"""Files that an installed Python package carries with it: `package:NAME/PATH/IN/IT`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from groundup.errors import UserError

PREFIX = "package:"


def locate(path: str) -> Path:
    """The file or folder. The package is found without importing it. Raises UserError where either isn't there."""
    name, _, inside = path.removeprefix(PREFIX).partition("/")
    spec = find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"there is no package {name!r} here", where=path, advice="Install it with pip")
    for root in spec.submodule_search_locations:
        found = Path(root, inside)
        if found.exists():
            return found
    raise UserError(f"the package {name!r} has no such file", where=path, expected=f"a path inside {root}")
