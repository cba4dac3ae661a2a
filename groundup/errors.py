"""The user's mistakes, told so that they can be mended. Everything else that is raised is a fault of ours."""

from __future__ import annotations

EXIT_FAULT = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Something the user can put right: the command line shows it as one paragraph and exits with 2.

    `what` was wrong, `where` (FILE:LINE:COLUMN, a key's path, or a path), what was `expected`, what to do (`advice`).
    """

    def __init__(self, what: str, *, where: str = "", expected: str = "", advice: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.expected, self.advice = what, where, expected, advice

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.expected:
            text += f"; expected {self.expected}"
        if self.advice:
            text += f". {self.advice}"
        return text

    def as_dict(self) -> dict[str, str]:
        return {"what": self.what, "where": self.where, "expected": self.expected, "advice": self.advice}


class RecipeError(UserError):
    """All that is wrong with a recipe, at once."""

    def __init__(self, problems: list[UserError]) -> None:
        super().__init__(f"{len(problems)} problem(s) in the recipe")
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(p) for p in self.problems)


class Interrupted(Exception):
    """The user or the system asked the run to stop; what it had is saved."""


class Superseded(Exception):
    """Another start of the same run has taken over; this one must not write."""


class BadStep(Exception):
    """A bad step that the recipe's policy does not go past. A new start would come to it again."""
