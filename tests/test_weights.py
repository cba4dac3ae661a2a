"""Folders of weights that are damaged, ambiguous, dangerous or of another model are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundup.errors import UserError
from groundup.models import huggingface as hf
from tests.shapes import MODELS, VOCAB, logits, random_decoder, random_tokens, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(random_decoder(MODELS["llama-tied"]), tmp_path / "model")


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    """Change, add or (None) take away tensors of a folder with a single file."""
    tensors = load_file(folder / "model.safetensors") | {k.replace("__", "."): v for k, v in changes.items()}
    kept = {key: value for key, value in tensors.items() if value is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def refused(folder: Path, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        hf.load_decoder(folder)
    assert str(folder) in caught.value.where
    for part in parts:
        assert part in str(caught.value)


def test_names_shapes_and_dtypes_are_checked(folder: Path) -> None:
    good = (folder / "model.safetensors").read_bytes()
    rewrite(folder, model__norm__weight=None)
    refused(folder, "missing", "model.norm.weight")
    (folder / "model.safetensors").write_bytes(good)
    rewrite(folder, model__surprise=torch.ones(3))
    refused(folder, "no place for", "model.surprise")
    (folder / "model.safetensors").write_bytes(good)
    rewrite(folder, model__norm__weight=torch.ones(63))
    refused(folder, "model.norm.weight", "[63]", "[64]")
    (folder / "model.safetensors").write_bytes(good)
    rewrite(folder, model__norm__weight=torch.ones(64, dtype=torch.int8))
    refused(folder, "model.norm.weight", "I8")


def test_what_old_checkpoints_carry_is_let_pass(folder: Path) -> None:
    embedding_VD = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    table_K = torch.ones(8)
    rewrite(
        folder,
        lm_head__weight=embedding_VD.clone(),
        model__layers__0__self_attn__rotary_emb__inv_freq=table_K,
    )
    hf.load_decoder(folder)
    rewrite(folder, lm_head__weight=embedding_VD + 1)
    refused(folder, "lm_head.weight differs", "tie_word_embeddings")


def patch_header(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip()
    assert header.count(old) == 1
    header = header.replace(old, new)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def test_a_key_twice_in_a_header_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    entry = json.dumps({"model.norm.weight": header["model.norm.weight"]}, separators=(",", ":")).encode()
    patch_header(path, entry[1:-1], entry[1:-1] + b"," + entry[1:-1])
    load_file(path)  # the library takes it
    refused(folder, "'model.norm.weight' occurs twice")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:5],
        lambda data: data[:-4],
        lambda data: data + b"\0\0\0\0",
        lambda data: (2**63).to_bytes(8, "little") + data[8:],
        lambda data: data[:8] + b"\xff" + data[9:],
        lambda data: (10**5).to_bytes(8, "little") + b"[" * 10**5,
        lambda data: (2).to_bytes(8, "little") + b"[]",
    ],
)
def test_a_damaged_file_is_refused(folder: Path, damage: Any) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    refused(folder, "no sound safetensors file", "model.safetensors")


def test_shards_that_disagree_are_refused(tmp_path: Path) -> None:
    folder = write_folder(random_decoder(MODELS["llama-tied"]), tmp_path / "model", 100_000)
    index = folder / "model.safetensors.index.json"
    content, shards = json.loads(index.read_text()), sorted(folder.glob("*.safetensors"))
    hf.load_decoder(folder)

    first = load_file(shards[0])
    save_file(load_file(shards[1]) | dict(list(first.items())[:1]), shards[1])
    refused(folder, "is also in", shards[0].name)
    save_file({k: v for k, v in load_file(shards[1]).items() if k not in first}, shards[1])
    hf.load_decoder(folder)

    stray = dict(content["weight_map"], **{next(iter(first)): shards[1].name})
    index.write_text(json.dumps(content | {"weight_map": stray}))
    refused(folder, "index")
    index.write_text(json.dumps(content | {"weight_map": dict.fromkeys(first, "../model.safetensors")}))
    refused(folder, "plain")
    index.write_text('{"weight_map": 3}')
    refused(folder, "no sound index")
    index.write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"")
    refused(folder, "both")
    (folder / "model.safetensors").unlink()
    shards[0].unlink()
    refused(folder, "No such file")


class Bomb:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_a_pickle_is_refused_with_advice_and_never_opened(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Bomb(tmp_path / "trace")}, folder / name)
    refused(folder, name, "pickle", "python -c")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pth"])
def test_the_advice_converts(folder: Path, name: str) -> None:
    tokens_BL = random_tokens(1, 10)
    expected_BLV = logits(hf.load_decoder(folder), tokens_BL)
    torch.save(load_file(folder / "model.safetensors"), folder / name)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError) as caught:
        hf.load_decoder(folder)
    code = caught.value.advice.split("python -c '")[1].rstrip("'")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    converted = folder if name == "weights.pth" else Path(f"{folder}-safetensors")
    torch.testing.assert_close(logits(hf.load_decoder(converted), tokens_BL), expected_BLV)


def test_folders_that_are_no_models_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "no config.json")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "JSON")
    (tmp_path / "config.json").write_text("[]")
    refused(tmp_path, "no configuration")
    (tmp_path / "config.json").write_text(json.dumps(hf.to_config(MODELS["llama"], VOCAB, dtype=torch.float32)))
    refused(tmp_path, "no weights are here", "model.safetensors")
