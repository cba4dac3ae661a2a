"""Which faults come when: all from the seed. Kinds are dealt like cards, so that none is left out for long."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from groundup.recipe.layout import Layout
from groundup.torture.damage import AT_REST

POINTS = (
    "shard.begin",
    "shard.written",
    "shard.synced",
    "commit.begin",
    "commit.written",
    "commit.synced",
    "commit.renamed",
    "drop.begin",
    "drop.unlisted",
)
RANK, AGENT, ALL, TERM, FULL, NAN, LAYOUT = (
    "kill of a rank",
    "kill of the agent",
    "kill of all processes",
    "SIGTERM",
    "full disk",
    "NaN",
    "change of layout",
)
AT_POINTS = tuple(f"kill at {name}" for name in POINTS)
KINDS = (RANK, AGENT, ALL, TERM, *AT_POINTS, *AT_REST, FULL, NAN, LAYOUT)
_ENDINGS = (AGENT, ALL, TERM)
_FULL_AT = ("shard.begin", "shard.written", "commit.begin", "commit.written")
_MOST_ACTS = 3  # per job: its agent starts ranks anew only so often


@dataclass(frozen=True)
class Act:
    """One fault. It comes once the ranks have run for `value` seconds, or have done `value` steps, or are saving
    (`when`); or where a rank passes the point `at`, having passed it `skip` times, by `action`, see groundup/faults.py.
    """

    kind: str
    when: str = "point"
    value: float = 0.0
    rank: int = 0
    at: str = ""
    action: str = ""
    skip: int = 0


@dataclass(frozen=True)
class Plan:
    """What is to happen to one job, in this order; and before it, while nothing runs."""

    layout: Layout
    acts: list[Act] = field(default_factory=list)
    at_rest: str | None = None


class Deck:
    """Cards in a random order; shuffled anew once all are dealt."""

    def __init__(self, cards: Sequence[str], dice: random.Random) -> None:
        self.cards, self.dice = list(cards), dice
        self.left: list[str] = []

    def draw(self) -> str:
        if not self.left:
            self.left = self.dice.sample(self.cards, len(self.cards))
        return self.left.pop()

    def put_back(self, card: str) -> None:
        self.left.append(card)


class Schedule:
    """`layouts`: those that rounds may use, the reference's first."""

    def __init__(self, seed: int, layouts: Sequence[Layout]) -> None:
        self.dice = random.Random(seed)
        self.layouts = layouts
        self.faults = Deck([RANK, AGENT, ALL, TERM, *AT_POINTS, FULL], self.dice)
        self.endings = Deck(_ENDINGS, self.dice)
        self.at_rest = Deck(AT_REST, self.dice)

    def plan(self, before: Layout | None, faithful: bool, mounted: bool) -> Plan:
        """For the job after one in the layout `before` (None: the first of a round). `faithful`: the layout never
        changes. `mounted`: the disk can be filled."""
        layout = before or self.layouts[0]
        if not faithful and before is not None and self.dice.random() < 0.85:
            layout = self._another(before)
        at_rest = self.at_rest.draw() if before is not None else None
        acts: list[Act] = []
        while len(acts) < _MOST_ACTS:
            act = self._act(self.faults.draw(), layout, mounted)
            acts.append(act)
            if self._ends(act, layout):
                return Plan(layout, acts, at_rest)
        return Plan(layout, [*acts, self._act(self.endings.draw(), layout, mounted)], at_rest)

    def give_back(self, act: Act) -> None:
        """It did not come about."""
        (self.endings if act.kind in _ENDINGS else self.faults).put_back(act.kind)

    def _another(self, before: Layout) -> Layout:
        others = [layout for layout in self.layouts if layout != before]
        small = [layout for layout in others if layout.world <= 2]
        return self.dice.choice(others if self.dice.random() < 0.15 or not small else small) if others else before

    def _ends(self, act: Act, layout: Layout) -> bool:
        """Whether the job is over then: there is no agent that starts a single process anew."""
        return act.kind in _ENDINGS or act.action == "kill-parent" or (layout.world == 1 and act.kind != FULL)

    def _act(self, kind: str, layout: Layout, mounted: bool) -> Act:
        if kind in AT_POINTS:
            # Not the parent of a single process, which is the one that tortures.
            action = "kill-parent" if layout.world > 1 and self.dice.random() < 0.25 else "kill"
            return self._at_point(kind, POINTS[AT_POINTS.index(kind)], action, layout)
        if kind == FULL and not mounted:
            return self._at_point(kind, self.dice.choice(_FULL_AT), "full", layout)
        when = self.dice.choices(("seconds", "steps", "saving"), (3, 5, 2))[0]
        if kind in (FULL, TERM) and when == "seconds":
            when = "steps" if self.dice.random() < 0.7 else when
        value = self.dice.uniform(0, 8) if when == "seconds" else self.dice.randint(1, 5)
        return Act(kind, when, value, self.dice.randrange(layout.world))

    def _at_point(self, kind: str, at: str, action: str, layout: Layout) -> Act:
        every_rank = at.startswith("shard")
        rank = self.dice.randrange(layout.world) if every_rank else 0
        return Act(kind, "point", 0.0, rank, at, action, self.dice.randrange(2))
