"""The export: what it writes, that it checks itself, and that a failure leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from groundup.data.tokens.tokenizer import Tokenizer
from groundup.data.tokens.train import train_tokenizer
from groundup.deploy import export
from groundup.deploy.export import ExportMismatch, write_export
from groundup.errors import UserError
from groundup.models import huggingface as hf
from groundup.models.decoder import Decoder
from groundup.recipe.language import Sampling
from groundup.recipe.model import Experts
from tests.shapes import MODELS, random_decoder, random_tokens

TEXTS = [
    "To be, or not to be:  that is\n\n the question 12345.",
    " Où sont les neiges d'antan? 日本 🙂\t",
    "<|endoftext|> is text here, and so is <|im_start|>user",
    "",
]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS * 3, 300, 10_000, folder)
    return folder


def run(decoder: Decoder, tokenizer_folder: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "dtype": torch.float32,
        "tolerance": 1e-4,
        "check_tokens_BL": random_tokens(2, 64),
        "check_texts": TEXTS,
        "card": "# A model\n",
        "lineage": {"recipe": {"name": "test"}},
        "sampling": Sampling(),
    }
    return write_export(decoder, tokenizer_folder, folder, **arguments | changes)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_an_export_holds(tokenizer_folder: Path, tmp_path: Path) -> None:
    decoder = random_decoder(MODELS["llama-tied"])
    result = run(decoder, tokenizer_folder, tmp_path / "runs" / "export")
    folder = Path(result["path"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "groundup.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert {path.suffix for path in folder.iterdir()} == {".md", ".json", ".safetensors"}
    assert not any(path.read_bytes().startswith((b"\x80", b"PK")) for path in folder.iterdir())
    assert result["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in content(folder).items()}
    told = json.loads((folder / "groundup.json").read_text())
    assert told["lineage"] == {"recipe": {"name": "test"}}
    assert told["files"].items() == result["files"].items() - {("groundup.json", result["files"]["groundup.json"])}
    assert told["check"]["max_logit_difference"] == result["max_logit_difference"]
    assert result["architecture"] == "LlamaForCausalLM"
    assert result["tolerance"] == 1e-4
    assert 0 < result["relative_difference"] <= 1e-4
    assert result["relative_difference"] < result["max_logit_difference"] < 1e-2
    assert [path.name for path in folder.parent.iterdir()] == ["export"]
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777


@pytest.mark.parametrize("name", ["llama", "qwen3", "mixtral", "qwen3-moe"])
def test_an_export_goes_back_to_our_decoder(name: str, tokenizer_folder: Path, tmp_path: Path) -> None:
    decoder = random_decoder(MODELS[name])
    run(decoder, tokenizer_folder, tmp_path / "export")
    back = hf.load_decoder(tmp_path / "export")
    assert back.model == decoder.model
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), decoder.parameters(), strict=True))


def test_rounded_weights_are_compared_with_rounded_weights(tokenizer_folder: Path, tmp_path: Path) -> None:
    decoder = random_decoder(MODELS["qwen3"])
    before = {key: value.clone() for key, value in decoder.state_dict().items()}
    result = run(decoder, tokenizer_folder, tmp_path / "export", dtype=torch.bfloat16)
    assert result["relative_difference"] < 1e-4
    back = hf.load_decoder(tmp_path / "export", dtype=None)
    for (key, ours), stored in zip(decoder.named_parameters(), back.parameters(), strict=True):
        assert torch.equal(ours.bfloat16(), stored), key
    assert all(torch.equal(value, decoder.state_dict()[key]) for key, value in before.items())
    assert json.loads((tmp_path / "export" / "config.json").read_text())["dtype"] == "bfloat16"


def test_transformers_generates_from_an_export(tokenizer_folder: Path, tmp_path: Path) -> None:
    decoder = random_decoder(MODELS["llama"])
    sampling = Sampling(temperature=0.0, max_new_tokens=7)
    folder = Path(run(decoder, tokenizer_folder, tmp_path / "export", sampling=sampling)["path"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False).startswith("<|im_start|>")
    prompt = tokenizer(tokenizer.bos_token + "To be", return_tensors="pt", add_special_tokens=False)
    ours = Tokenizer(tokenizer_folder)
    assert prompt["input_ids"][0].tolist() == [ours.start_id, *ours.encode("To be")]
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokens_BL = model.generate(**prompt)
    expected_BL = prompt["input_ids"]
    with torch.no_grad():
        for _ in range(7):
            next_B = decoder.logits(decoder(expected_BL).x_BLD[:, -1]).argmax(-1)
            expected_BL = torch.cat([expected_BL, next_B[:, None]], 1)
            if next_B.item() in ours.stop_ids:
                break
    assert torch.equal(tokens_BL, expected_BL)


def test_the_recipe_s_sampling_is_the_default_of_generation(tokenizer_folder: Path, tmp_path: Path) -> None:
    sampling = Sampling(temperature=0.7, top_k=0, top_p=0.9, max_new_tokens=33)
    run(random_decoder(MODELS["llama"]), tokenizer_folder, tmp_path / "export", sampling=sampling)
    config = GenerationConfig.from_pretrained(tmp_path / "export")
    assert (config.do_sample, config.temperature, config.top_k, config.top_p) == (True, 0.7, 0, 0.9)
    assert config.max_new_tokens == 33
    assert config.eos_token_id == Tokenizer(tokenizer_folder).stop_ids


SWAPPED = {
    "llama": ("_DENSE", "ffn.gate.weight", "ffn.up.weight"),
    "qwen3": ("_QK_NORM", "attention.query_norm.weight", "attention.key_norm.weight"),
    "mixtral": ("_MIXTRAL", "ffn.experts.gate", "ffn.experts.up"),
    "qwen3-moe": ("_QWEN3_MOE", "ffn.experts.gate", "ffn.experts.up"),
    "llama-tied": ("_ATTENTION", "attention_norm.weight", "ffn_norm.weight"),
}


@pytest.mark.parametrize("name", SWAPPED)
def test_a_wrong_mapping_is_caught(
    name: str, tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, folder = random_decoder(MODELS[name]), tmp_path / "export"
    run(decoder, tokenizer_folder, folder)
    good = content(folder)
    table_name, first, second = SWAPPED[name]
    table = getattr(hf, table_name)
    monkeypatch.setattr(hf, table_name, table | {first: table[second], second: table[first]})
    with pytest.raises(ExportMismatch, match=r"differ from transformers' by up to .* the tolerance is 0\.0001"):
        run(decoder, tokenizer_folder, folder)
    assert content(folder) == good
    assert list(tmp_path.iterdir()) == [folder]
    with pytest.raises(ExportMismatch):
        run(decoder, tokenizer_folder, tmp_path / "another")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_wrong_configuration_is_caught(
    tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = export.to_config

    def run_with(**changes: Any) -> None:
        monkeypatch.setattr(export, "to_config", lambda *a, **k: real(*a, **k) | changes)
        run(random_decoder(MODELS["llama"]), tokenizer_folder, tmp_path / "export")

    with pytest.raises(ExportMismatch):
        run_with(rope_scaling=None, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    with pytest.raises(ExportMismatch, match="only in part"):
        run_with(num_hidden_layers=1)
    with pytest.raises(ExportMismatch, match="only in part"):
        run_with(num_hidden_layers=3)
    assert list(tmp_path.iterdir()) == []
    run_with()


def test_no_number_is_no_match(tokenizer_folder: Path, tmp_path: Path) -> None:
    decoder = random_decoder(MODELS["llama"])
    with torch.no_grad():
        decoder.norm.weight[3] = float("nan")
    with pytest.raises(ExportMismatch, match="nan"):
        run(decoder, tokenizer_folder, tmp_path / "export")


def test_a_tokenizer_that_transformers_takes_for_another_is_caught(tokenizer_folder: Path, tmp_path: Path) -> None:
    """Without its class, transformers splits words for Qwen3 as Qwen's own tokenizer does."""
    nameless = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_folder, nameless)
    (nameless / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    with pytest.raises(ExportMismatch, match="tokenizer cuts"):
        run(random_decoder(MODELS["qwen3"]), nameless, tmp_path / "export", check_texts=["in 12345 days"])
    assert not (tmp_path / "export").exists()


def test_a_new_export_takes_the_place_of_an_old_one(tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    run(random_decoder(MODELS["llama"], seed=1), tokenizer_folder, folder)
    (folder / "stale.safetensors").write_bytes(b"")
    leftover = tmp_path / ".export.new"
    leftover.mkdir()
    (leftover / "half.safetensors").write_bytes(b"")
    decoder = random_decoder(MODELS["llama"], seed=5)
    run(decoder, tokenizer_folder, folder)
    assert not (folder / "stale.safetensors").exists()
    assert torch.equal(hf.load_decoder(folder).embedding.weight, decoder.embedding.weight)
    assert list(tmp_path.iterdir()) == [folder]


def test_an_export_cut_off_between_two_renames_is_recovered(
    tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, decoder = tmp_path / "export", random_decoder(MODELS["llama"])
    run(decoder, tokenizer_folder, folder)
    good = content(folder)
    folder.rename(tmp_path / ".export.previous")  # what a crash at that moment leaves
    table = hf._DENSE
    swapped = table | {"ffn.gate.weight": table["ffn.up.weight"], "ffn.up.weight": table["ffn.gate.weight"]}
    monkeypatch.setattr(hf, "_DENSE", swapped)
    with pytest.raises(ExportMismatch):
        run(decoder, tokenizer_folder, folder)
    assert content(folder) == good
    assert list(tmp_path.iterdir()) == [folder]


def test_other_folders_are_never_replaced(tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="no export of ours"):
        run(random_decoder(MODELS["llama"]), tokenizer_folder, folder)
    assert content(folder) == {"thesis.txt": b"years of work"}
    (folder / "thesis.txt").unlink()
    run(random_decoder(MODELS["llama"]), tokenizer_folder, folder)  # an empty one is


def test_what_cannot_be_exported_is_refused(
    tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "export"
    biased = MODELS["mixtral"].model_copy(update={"experts": Experts(count=4, balance="bias", ffn_size=32)})
    with pytest.raises(UserError, match="selection bias"):
        run(random_decoder(biased), tokenizer_folder, folder)
    with pytest.raises(UserError, match="300 entries, the model 200 rows"):
        run(random_decoder(MODELS["llama"], vocab_size=200), tokenizer_folder, folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        run(random_decoder(MODELS["llama"]), tokenizer_folder, tmp_path / "file" / "export")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(UserError, match="1,000 are free"):
        run(random_decoder(MODELS["llama"]), tokenizer_folder, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_interrupt_leaves_nothing_behind(
    tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_check_tokenizer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(random_decoder(MODELS["llama"]), tokenizer_folder, tmp_path / "export")
    assert list(tmp_path.iterdir()) == []
