"""The starts of a run's workers, numbered in the store where its nodes meet.

Each generation is a rendezvous of its own, so that nothing of an earlier one is in the way: who was lost, who waited,
how its clock ran. An agent that leaves a generation moves the number on first and closes its rendezvous then; whoever
waited there goes on to the next. An agent whose workers run in a generation that is past has them save and leaves it.
"""

from __future__ import annotations

import json
from typing import Any

from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store

from groundup.errors import UserError
from groundup.launch.failure import Report


class Generations:
    """Those of the run `name`."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = PrefixStore(f"groundup/run/{name}", store)

    def current(self) -> int:
        return int(self.store.add("generation", 0))

    def leave(self, generation: int) -> None:
        """Have all go on to the next one."""
        self.store.compare_set("generation", str(generation), str(generation + 1))

    def end(self, generation: int, report: Report) -> None:
        """The run has ended in this generation, with this result or failure."""
        self.store.set(f"ended/{generation}", json.dumps(report.as_dict(), default=str))
        self.leave(generation)

    def ended(self, generation: int) -> Report | None:
        """How the run ended in this generation; None where it did not."""
        key = f"ended/{generation}"
        return Report(**json.loads(self.store.get(key))) if self.store.check([key]) else None

    def failures(self, progress: str) -> int:
        """Count one more failure since the run came to `progress`; how many there are."""
        return int(self.store.add(f"failures/{progress}", 1))

    def agree(self, terms: dict[str, Any], *, join: bool) -> None:
        """Hold what this node has against what those of the present generation have. `join`: where there are none yet,
        they must have what this node has.

        Raises UserError where they differ.
        """
        key, mine = f"terms/{self.current()}", json.dumps(terms, sort_keys=True)
        if join:
            found = json.loads(self.store.compare_set(key, "", mine))
        else:
            found = json.loads(self.store.get(key)) if self.store.check([key]) else terms
        differing = [f"{name} {terms[name]}, theirs {found.get(name)}" for name in terms if terms[name] != found[name]]
        if differing:
            raise UserError(
                f"this node doesn't fit the nodes that are there: {'; '.join(differing)}",
                where="--rendezvous",
                advice="Give all nodes the same recipe, options and data. Where no node trains any more: start the "
                "rendezvous anew",
            )
