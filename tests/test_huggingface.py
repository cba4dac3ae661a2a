"""Weights and configurations in both directions, against transformers itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from groundup.models import huggingface as hf
from tests.shapes import MODELS, VOCAB, logits, random_decoder, random_tokens, write_folder

CLASSES = {
    "llama": "LlamaForCausalLM",
    "llama-tied": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3-tied": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen3-moe": "Qwen3MoeForCausalLM",
    "qwen3-moe-raw": "Qwen3MoeForCausalLM",
}


def their_logits(folder: Path, tokens_BL: torch.Tensor) -> torch.Tensor:
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    with torch.no_grad():
        return model.eval()(tokens_BL).logits


@pytest.mark.parametrize("name", MODELS)
def test_transformers_computes_the_same_from_our_folder(name: str, tmp_path: Path) -> None:
    decoder, tokens_BL = random_decoder(MODELS[name]), random_tokens(2, 100)
    folder = write_folder(decoder, tmp_path / "ours")
    assert json.loads((folder / "config.json").read_text())["architectures"] == [CLASSES[name]]
    ours_BLV = logits(decoder, tokens_BL)
    assert ours_BLV.std() > 0.1
    torch.testing.assert_close(ours_BLV, their_logits(folder, tokens_BL), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_we_compute_the_same_from_their_folder(name: str, tmp_path: Path) -> None:
    tokens_BL = random_tokens(2, 100)
    config_file = tmp_path / "config.json"
    config_file.write_text(json.dumps(hf.to_config(MODELS[name], VOCAB, dtype=torch.float32)))
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(config_file)).eval()
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            parameter.normal_(1.0 if "norm" in key else 0.0, 0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    decoder = hf.load_decoder(tmp_path / "theirs")
    assert decoder.model == MODELS[name]
    assert not decoder.training
    with torch.no_grad():
        expected_BLV = theirs(tokens_BL).logits
    assert expected_BLV.std() > 0.1
    torch.testing.assert_close(logits(decoder, tokens_BL), expected_BLV, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_weights_come_back_bit_for_bit_through_shards(name: str, tmp_path: Path) -> None:
    decoder = random_decoder(MODELS[name])
    folder = write_folder(decoder, tmp_path / "sharded", max_shard_bytes=100_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(folder.glob("model-*-of-*.safetensors"))
    assert len(files) > 2
    assert sorted(set(index["weight_map"].values())) == [path.name for path in files]
    held = [key for path in files for key in load_file(path)]
    assert len(held) == len(set(held)) == len(index["weight_map"])
    assert ("lm_head.weight" in held) is not MODELS[name].tied_embeddings
    parameters = dict(decoder.named_parameters())
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in parameters.values())
    back = hf.load_decoder(folder)
    assert back.state_dict().keys() == decoder.state_dict().keys()
    assert all(torch.equal(parameters[key], value) for key, value in back.named_parameters())


def test_transformers_reads_our_shards(tmp_path: Path) -> None:
    decoder, tokens_BL = random_decoder(MODELS["mixtral"]), random_tokens(2, 20)
    folder = write_folder(decoder, tmp_path / "sharded", max_shard_bytes=100_000)
    ours_BLV, theirs_BLV = logits(decoder, tokens_BL), their_logits(folder, tokens_BL)
    torch.testing.assert_close(ours_BLV, theirs_BLV, atol=1e-4, rtol=1e-4)


def test_a_shard_stays_under_its_limit(tmp_path: Path) -> None:
    tensors = [(f"t{n}", torch.full((100,), float(n))) for n in range(7)]
    files = hf.save_weights(iter(tensors), tmp_path, 800)
    shards = [load_file(path) for path in files[:-1]]
    assert [list(shard) for shard in shards] == [["t0", "t1"], ["t2", "t3"], ["t4", "t5"], ["t6"]]
    assert all(torch.equal(shard[key], dict(tensors)[key]) for shard in shards for key in shard)


def test_mapping_is_its_own_inverse_and_refuses_other_states() -> None:
    for model in MODELS.values():
        state = dict(random_decoder(model).named_parameters())
        back = hf.from_huggingface(hf.to_huggingface(state, model), model)
        assert back.keys() == state.keys()
        assert all(torch.equal(back[key], state[key]) for key in state)
    with pytest.raises(KeyError, match="norm"):
        hf.to_huggingface({key: state[key] for key in state if key != "norm.weight"}, model)


def test_dtype_of_the_weights_leaves_the_rotary_tables_alone(tmp_path: Path) -> None:
    folder = write_folder(random_decoder(MODELS["llama"]), tmp_path / "ours")
    decoder = hf.load_decoder(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in decoder.parameters()} == {torch.bfloat16}
    assert decoder.cos_LK.dtype == torch.float32
    assert hf.load_decoder(folder, dtype=None).embedding.weight.dtype == torch.float32
