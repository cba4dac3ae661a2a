"""What the verbs have in common: targets, options, errors as sentences, `--json`."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from groundup.console import clean_stdout, say
from groundup.errors import EXIT_FAULT, EXIT_INTERRUPTED, EXIT_USER, Interrupted, RecipeError, Superseded, UserError
from groundup.launch.failure import RankFailed

if TYPE_CHECKING:
    from groundup.recipe.load import LoadedRecipe
    from groundup.rundir import RunDir

Result = tuple[dict[str, Any], str]


class Suggesting(click.Group):
    """Offers the nearest verb for one that does not exist."""

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        if arguments and not arguments[0].startswith("-") and arguments[0] not in self.commands:
            near = difflib.get_close_matches(arguments[0], self.commands, 1, 0.5)
            advice = f" Did you mean {near[0]!r}?" if near else f" See `{context.command_path} --help`."
            raise click.UsageError(f"There is no verb {arguments[0]!r}.{advice}")
        return super().resolve_command(context, arguments)

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)  # in the order of the course


@dataclass(frozen=True)
class Target:
    """What a verb was pointed at."""

    path: Path
    run_dir: Path | None
    settings: tuple[str, ...]

    def load(self) -> LoadedRecipe:
        from groundup.recipe.load import load
        from groundup.rundir import is_run

        return load(self.path / "recipe.toml" if is_run(self.path) else self.path, self.settings)

    def folder(self, name: str) -> Path:
        """The run folder of a recipe of this name."""
        from groundup.rundir import is_run

        return self.run_dir or (self.path if is_run(self.path) else Path("runs") / name)

    @contextmanager
    def opened(self, *, restart: bool = False, allow: Collection[str] = ()) -> Iterator[tuple[LoadedRecipe, RunDir]]:
        """The recipe and its run folder, made if need be, under its lock: until it is held, nothing there is replaced.

        Raises UserError where checkpoints there are of another training, but for what `allow` names, unless they are
        set aside (`restart`)."""
        from groundup.rundir import RunDir
        from groundup.train.identity import refuse_another_recipe
        from groundup.train.supersede import finish_setting_aside

        loaded = self.load()
        run = RunDir(self.folder(loaded.recipe.name))
        run.make(loaded.recipe.name)
        with run.lock():
            finish_setting_aside(run)
            if not restart:
                refuse_another_recipe(loaded, run, allow)
            run.keep(loaded)
            yield loaded, run

    def existing_run(self) -> RunDir:
        """The run folder of this target, which must be there."""
        from groundup.rundir import existing

        if self.run_dir is None and self.path.is_file():
            return existing(self.folder(self.load().recipe.name))
        return existing(self.run_dir or self.path)


def program() -> str:
    """What to type here for `groundup`: its path where the shell would not find it, or would find another."""
    typed = Path(sys.argv[0])
    found = shutil.which("groundup")
    if found is not None and Path(found).parent.samefile(Path(sys.executable).parent):
        return "groundup"
    return str(typed) if typed.name == "groundup" else f"{sys.executable} -m groundup"


def fail(error: BaseException, as_json: bool, out: IO[str], debug: bool) -> int:
    """Say what happened; the exit code."""
    if debug and not isinstance(error, Interrupted):
        raise error
    if isinstance(error, RecipeError):
        say(str(error))
        document: dict[str, Any] = {"problems": [p.as_dict() for p in error.problems]}
        code = EXIT_USER
    elif isinstance(error, UserError):
        say(f"error: {error}")
        if re.search(r"\bgroundup [a-z]", str(error)) and program() != "groundup":
            say(f"(groundup is {program()} here)")
        document, code = {"error": error.as_dict()}, EXIT_USER
    elif isinstance(error, Interrupted | KeyboardInterrupt):
        say(str(error) or "interrupted")
        document, code = {"error": {"what": str(error) or "interrupted"}}, EXIT_INTERRUPTED
    else:
        what = str(error) if isinstance(error, RankFailed | Superseded) else f"{type(error).__name__}: {error}"
        say(f"fault: {what} (--debug shows where)")
        document, code = {"error": {"what": what}}, EXIT_FAULT
    if as_json:
        print(json.dumps(document), file=out)
    return code


def verb(group: click.Group, name: str, *, target: bool = True) -> Callable[[Callable[..., Any]], click.Command]:
    """A verb: its options in common, its errors as sentences, its result as JSON on request.

    The function returns what `--json` prints, or that and the text that people get on standard output instead.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        @wraps(function)
        def run(**options: Any) -> None:
            as_json, debug = options.pop("as_json"), options.pop("debug")
            if target:
                options["target"] = Target(options["target"], options.pop("run_dir"), options.pop("settings"))
            with clean_stdout() as out:
                try:
                    result = function(**options)
                    document, text = result if isinstance(result, tuple) else (result, "")
                    if as_json:
                        print(json.dumps(document, default=str), file=out)
                    elif text:
                        print(text, file=out)
                    passed = not isinstance(document, dict) or document.get("passed", True)
                    code = 0 if passed else EXIT_FAULT
                except (Exception, KeyboardInterrupt) as error:
                    code = fail(error, as_json, out, debug)
            sys.exit(code)

        command: Any = run
        if target:
            command = click.option(
                "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key with a TOML value."
            )(command)
            command = click.option(
                "--run-dir", type=click.Path(path_type=Path), help="The run folder; default: runs/NAME."
            )(command)
            command = click.argument("target", metavar="RECIPE|RUN", type=click.Path(path_type=Path))(command)
        command = click.option("--debug", is_flag=True, help="Show tracebacks.")(command)
        command = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")(command)
        return group.command(name)(command)

    return decorate
