"""Recipes: loading, merging, all errors at once with their places, and what is printed."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import RecipeError, UserError
from groundup.recipe import show
from groundup.recipe.load import load, parse_set
from groundup.recipe.positions import first_key, scan
from groundup.recipe.quantities import Duration, Pace, parse_duration
from tests.conftest import groundup, groundup_json

REPOSITORY = Path(__file__).parent.parent


def problems(path: Path, text: str, *settings: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load(path, settings)
    return str(caught.value).split("\n")


def test_examples_are_good() -> None:
    for path in sorted((REPOSITORY / "examples").glob("*.toml")):
        assert load(path).recipe.name


def test_all_errors_at_once_with_place_key_and_advice(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    lines = problems(
        path,
        'nmae = "x"\n'
        "[model]\n"
        "hiden_size = 96\n"
        '  layers = "4"\n'
        "[optim]\n"
        'optimizer = "adamm"\n'
        'schedule = "step"\n'
        "[train]\n"
        'duration = "20"\n'
        "[[data.sources]]\n"
        'path = "pypi:a==1"\n'
        "[[data.sources]]\n"
        'path = "b"\n'
        'txt_field = "body"\n',
    )
    expected = {
        f"{path}:1:1: nmae: unknown key 'nmae'. Did you mean 'name'?",
        f"{path}:3:1: model.hiden_size: unknown key 'hiden_size'. Did you mean 'hidden_size'?",
        f"{path}:4:12: model.layers: '4'; expected a valid integer",
        f"{path}:14:1: data.sources[1].txt_field: unknown key 'txt_field'. Did you mean 'text_field'?",
    }
    assert expected <= set(lines)
    rest = "\n".join(line for line in lines if line not in expected)
    assert f"{path}:6:13: optim.optimizer: 'adamm'" in rest
    assert "Did you mean 'adam" in rest
    assert f"{path}:9:12: train.duration: '20'; expected a duration such as" in rest
    # Combinations are told in the same breath.
    assert f'{path}:5:1: optim.step_every: the schedule "step" needs it' in rest
    assert f"{path}:10:1: data.sources[0]: pypi:a==1 needs a pinned hash" in rest
    assert len(lines) == 8


def test_a_key_of_another_section_is_named(tmp_path: Path) -> None:
    (line,) = problems(tmp_path / "r.toml", '[train]\ncheckpoint_every = "5 steps"\n')
    assert line.endswith("unknown key 'checkpoint_every'. There is checkpoint.every")
    (line,) = problems(tmp_path / "r.toml", "[train]\nhidden_size = 96\n")
    assert line.endswith("There is model.hidden_size")


def test_a_verdict_on_a_default_that_stands_in_is_not_told(tmp_path: Path) -> None:
    (line,) = problems(tmp_path / "r.toml", "[model]\nhiden_size = 96\nheads = 6\n")
    assert "hiden_size" in line
    (line,) = problems(tmp_path / "r.toml", "[train]\nsequence_length = '64'\nbatch_tokens = 192\nmicro_batch = 1\n")
    assert "sequence_length" in line


@pytest.mark.parametrize(
    ("text", "key", "legal"),
    [
        ("[model]\nhidden_size = 100\nheads = 3\n", "model.heads", "such as 2"),
        ("[model]\nheads = 4\nkv_heads = 3\n", "model.kv_heads", "such as 2"),
        ("[train]\nbatch_tokens = 5000\n", "train.batch_tokens", "such as 4096"),
        ("[model]\ncontext_length = 128\n", "train.sequence_length", "at most model.context_length (128)"),
        ("[model.experts]\ncount = 2\nper_token = 3\n", "model.experts.per_token", "at most"),
        ("[model.experts]\nshared_ffn_size = 64\n", "model.experts", "or export.enabled = false"),
        ('[model.experts]\nbalance = "bias"\n', "model.experts", "or export.enabled = false"),
        ('[optim]\nwarmup = "30 steps"\n[train]\nduration = "20 steps"\n', "optim.warmup", "at most 20 steps"),
        (
            '[optim]\nwarmup = "1M tokens"\n[train]\nduration = "20 steps"\n',
            "optim.warmup",
            "1000000 tokens is longer than the whole run (20 steps)",
        ),
        ('[optim]\ndecay = "3 steps"\n', "optim.decay", "warmup-stable-decay"),
        ('[checkpoint]\nevery = "0 steps"\n', "checkpoint.every", "more than zero"),
        ('[checkpoint]\nkeep_every = "0 epochs"\n', "checkpoint.keep_every", "more than zero"),
        ('[train]\nvalidate_every = "0 steps"\n', "train.validate_every", "more than zero"),
        ('[train]\nsample_every = "0.0 tokens"\n', "train.sample_every", "more than zero"),
        ('[train]\nduration = "0 steps"\n', "train.duration", "more than zero"),
        ('[train]\nduration = "1e400 steps"\n', "train.duration", "at most 1e+15 steps, tokens or epochs"),
        ('[optim]\nschedule = "step"\nstep_every = "0 steps"\n', "optim.step_every", "more than zero"),
        ("[optim]\nlr = inf\n", "optim.lr", "a finite number"),
        ("[data]\nvalidation_fraction = 0.0\n", "data.validation_fraction", "greater than 0"),
        ("[data]\nvalidation_fraction = 1.0\n", "data.validation_fraction", "less than 1"),
        ('[tokenizer]\nsplit = "("\n', "tokenizer.split", "regular expression that Oniguruma knows"),
        ("[sampling]\ntop_k = 9223372036854775808\n", "sampling.top_k", "less than 9223372036854775808"),
        ('[checkpoint]\nplace = "s4://bucket/run"\n', "checkpoint.place", "s3://"),
        (
            '[data]\nsources = [{ path = "a", weight = 1.0 }, { path = "b" }]\n',
            "data.sources[1]",
            "all or none",
        ),
        (
            '[data]\nsources = [{ path = "a", weight = 1.0 }, { path = "b", weight = 1.0, epochs = 2 }]\n',
            "data.sources[1].epochs",
            "either epochs or weights",
        ),
        ('[data]\nsources = [{ path = "a", name = "x" }, { path = "b", name = "x" }]\n', "data.sources[0].name", "own"),
    ],
)
def test_impossible_combinations_name_a_legal_value(tmp_path: Path, text: str, key: str, legal: str) -> None:
    lines = problems(tmp_path / "r.toml", text)
    assert any(f": {key}: " in line and legal in line for line in lines), lines


def test_broken_toml_has_its_place(tmp_path: Path) -> None:
    (line,) = problems(tmp_path / "r.toml", 'name = "a"\n[train]\nthreads = = 3\n')
    assert line.startswith(f"{tmp_path / 'r.toml'}:3:11: not valid TOML")


def test_missing_file_offers_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "shakespeare.toml").write_text("")
    with pytest.raises(UserError, match=r"Did you mean .*shakespeare\.toml"):
        load(tmp_path / "shakespear.toml")


def test_set_overrides_and_is_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[train]\nmicro_batch = 2\n")
    loaded = load(path, ('train.duration="20 steps"', "train.micro_batch=4", 'data.sources=[{path="x.jsonl"}]'))
    assert loaded.recipe.train.duration == Duration(20, "steps")
    assert loaded.recipe.train.micro_batch == 4
    assert loaded.recipe.data.sources[0].path == str(tmp_path / "x.jsonl")
    assert show.origins(loaded)["train.micro_batch"] == "--set"
    assert problems(path, "", "train.micro_batch='a'")[0].startswith("--set: train.micro_batch: 'a'")


@pytest.mark.parametrize(
    "expression",
    [
        "train.duration=20 steps",
        "train.duration",
        "=3",
        "a.b=",
        "a b=1",
        "# x=1",
        "#=1",
        "[a]\nb=1",
        "a=1\nb=2",
        "a.b=1\na.c=2",
        "\n# a\nb=1",
    ],
)
def test_set_that_is_no_toml_says_what_to_type(expression: str) -> None:
    with pytest.raises(UserError, match="--set"):
        parse_set((expression,))


def test_preset_is_under_what_is_given(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('[model]\npreset = "llama-3-405b"\nlayers = 2\n[model.rope_scaling]\nfactor = 4.0\n')
    loaded = load(path)
    assert (loaded.recipe.model.layers, loaded.recipe.model.hidden_size) == (2, 16_384)
    assert loaded.recipe.model.rope_scaling is not None
    assert loaded.recipe.model.rope_scaling.factor == 4.0
    origins = show.origins(loaded)
    assert origins["model.layers"] == f"{path}:3"
    assert origins["model.hidden_size"] == "preset llama-3-405b"
    assert origins["train.micro_batch"] == "default"
    assert "Did you mean 'qwen3-0.6b'?" in problems(path, '[model]\npreset = "qwen3-0.6"\n')[0]


def test_resolved_recipe_means_the_same_elsewhere(recipe_file: Path, tmp_path: Path) -> None:
    loaded = load(recipe_file, ("train.micro_batch=2",))
    copy = tmp_path / "elsewhere" / "recipe.toml"
    copy.parent.mkdir()
    copy.write_text(show.to_toml(loaded.recipe))
    assert load(copy).recipe == loaded.recipe


def test_schema_describes_every_key_and_the_reference_page_is_current() -> None:
    schema = groundup_json("recipe", "schema")
    assert schema["additionalProperties"] is False
    for section in [schema, *schema["$defs"].values()]:
        for key, kind in section["properties"].items():
            target = schema["$defs"][kind["$ref"].rpartition("/")[2]] if "$ref" in kind else kind
            assert target.get("description"), key
    written = (REPOSITORY / "docs" / "recipe.md").read_text()
    assert written.rstrip() == show.reference().rstrip(), "run `make docs`"


def test_commands(recipe_file: Path, tmp_path: Path) -> None:
    shown = groundup("recipe", "show", recipe_file, "--set", "train.micro_batch=2")
    assert shown.returncode == 0
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["train.micro_batch", "2", "--set"] in rows
    line = recipe_file.read_text().splitlines().index("layers = 2") + 1
    assert ["model.layers", "2", f"{recipe_file}:{line}"] in rows
    assert ["model.kv_heads", "2", "default"] in rows
    assert groundup("recipe", "check", recipe_file).returncode == 0
    bad = tmp_path / "bad.toml"
    bad.write_text("[train]\nmicrobatch = 3\n")
    checked = groundup("recipe", "check", bad)
    assert checked.returncode == 2
    assert checked.stderr.startswith(f"{bad}:2:1: train.microbatch: unknown key")
    assert "Traceback" not in checked.stderr
    as_json = groundup("recipe", "check", bad, "--json")
    assert json.loads(as_json.stdout)["problems"][0]["where"] == f"{bad}:2:1"


def test_init_writes_a_recipe_that_is_good_and_leaves_files_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    assert groundup("init", path, "--data", "texts/*.md").returncode == 0
    assert load(path).recipe.data.sources[0].path == str(tmp_path / "texts/*.md")
    again = groundup("init", path)
    assert again.returncode == 2
    assert "exists already" in again.stderr


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("20 steps", 20, "steps"),
        ("1 epoch", 1, "epochs"),
        ("1.5 epochs", 1.5, "epochs"),
        ("300M tokens", 3e8, "tokens"),
    ],
)
def test_durations(text: str, value: float, unit: str) -> None:
    assert parse_duration(text) == Duration(value, unit)


def test_durations_in_steps() -> None:
    text = Pace(8, 80, tokens_per_sample=64)
    assert text.steps(Duration(2, "epochs")) == 20
    assert text.steps(Duration(10_240, "tokens")) == 20
    assert text.steps(Duration(0.001, "epochs")) == 1
    with pytest.raises(ValueError, match="prepared"):
        Pace(8, None, 64).steps(Duration(1, "epochs"))


@given(st.integers(1, 20), st.integers(1, 50), st.integers(0, 60))
def test_steps_over_a_table_end_with_its_epochs(per_step: int, per_epoch: int, steps: int) -> None:
    pace = Pace(per_step, per_epoch, cut=True)
    samples, ends = 0, []
    for _ in range(steps):
        end = pace.step_end(samples)
        assert 0 < end - samples <= per_step
        samples = end
        ends.append(end)
    assert pace.samples(steps) == samples
    whole = pace.samples(pace.steps(Duration(3, "epochs")))
    assert whole == 3 * per_epoch
    assert all(e in ends for e in range(per_epoch, samples + 1, per_epoch))


_KEYS = st.text("abc-_ .\"'é#=[]", min_size=1, max_size=6)
_VALUES = st.recursive(
    st.integers(-5, 5) | st.booleans() | st.text("ab\"'\\\n#[]{}=,", max_size=8) | st.floats(allow_nan=False, width=32),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=12,
)


def _paths(node: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    found = {path} if path else set()
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        found |= _paths(value, (*path, key))
    return found


@given(st.dictionaries(_KEYS, _VALUES, max_size=4), st.booleans())
def test_the_scanner_finds_every_key_of_any_document(document: dict[str, Any], multiline: bool) -> None:
    text = tomli_w.dumps(document, multiline_strings=multiline)
    parsed = tomllib.loads(text)
    found = scan(text)
    assert _paths(parsed) == set(found)
    lines = text.split("\n")
    for path, at in found.items():
        if isinstance(path[-1], str) and at.line == at.value_line and at.column != at.value_column:
            # What stands at the place is the beginning of that key.
            assert first_key(lines[at.line - 1][at.column - 1 :] + "\n=")[-1] is not None
            assert lines[at.value_line - 1][: at.value_column - 1].rstrip().endswith("=")
