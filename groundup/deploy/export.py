"""The export: a Hugging Face folder that is loaded by transformers and compared before it takes its place.

Shapes: B rows, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.data.tokens.tokenizer import Tokenizer
from groundup.deploy.folder import LINEAGE, ExportMismatch, replacing, sha256, write_json
from groundup.errors import UserError
from groundup.models.decoder import Decoder
from groundup.models.huggingface import decoder_from, published_tensors, to_config
from groundup.models.weights import save_weights
from groundup.recipe.language import Sampling


def write_export(
    decoder: Decoder,
    tokenizer_folder: Path,
    folder: Path,
    *,
    dtype: torch.dtype,
    tolerance: float,
    check_tokens_BL: Tensor,
    check_texts: Sequence[str],
    card: str,
    lineage: Mapping[str, Any],
    sampling: Sampling,
) -> dict[str, Any]:
    """Write the model as a Hugging Face folder, check it, and put it in place of an older export.

    decoder: weights in fp32. dtype: of the written weights; where it rounds, the rounded weights are
    compared. tolerance: largest difference of a logit, as a share of the largest logit.
    check_tokens_BL: int64, real text. check_texts: transformers' tokenizer must cut them into the same
    tokens. card: the README. lineage: what the model was made from, for groundup.json. sampling: the
    defaults for generation. The caller sees to it that no other process exports to the same folder.

    Returns path, architecture, max_logit_difference, relative_difference, tolerance, and files (name to
    SHA-256). Raises UserError for a model or place that can't do, ExportMismatch where the check fails;
    either way an older export stays as it was.
    """
    tokenizer = Tokenizer(tokenizer_folder)
    stop_ids = tokenizer.stop_ids
    config = to_config(decoder.model, decoder.vocab_size, dtype=dtype, bos=tokenizer.start_id, eos=stop_ids[0])
    if tokenizer.vocab_size > decoder.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} entries, the model {decoder.vocab_size} rows",
            where=str(tokenizer_folder),
            expected="the tokenizer that the model was trained with",
        )
    written = {name: tensor.detach().to(dtype) for name, tensor in decoder.named_parameters()}
    with replacing(folder, sum(tensor.nbytes for tensor in written.values())) as new:
        save_weights(published_tensors(written, decoder.model), new)
        tokenizer.save(new)
        write_json(new / "config.json", config)
        write_json(new / "generation_config.json", _generation_config(tokenizer, sampling))
        (new / "README.md").write_text(card, encoding="utf-8")
        reference = decoder_from({n: t.float() for n, t in written.items()}, decoder.model, decoder.vocab_size)
        differences = _check_logits(new, reference, check_tokens_BL, tolerance)
        check = {"architecture": config["architectures"][0], "tolerance": tolerance, **differences}
        _check_tokenizer(new, tokenizer, check_texts)
        files = {path.name: sha256(path) for path in sorted(new.iterdir())}
        write_json(new / LINEAGE, {"lineage": lineage, "check": check, "files": files})
        files[LINEAGE] = sha256(new / LINEAGE)
    return {"path": str(folder), **check, "files": files}


def _generation_config(tokenizer: Tokenizer, sampling: Sampling) -> dict[str, Any]:
    config: dict[str, Any] = {
        "bos_token_id": tokenizer.start_id,
        "eos_token_id": tokenizer.stop_ids,
        # Only here: in config.json it would make the embedding's row of this token untrainable.
        "pad_token_id": tokenizer.stop_ids[0],
        "max_new_tokens": sampling.max_new_tokens,
        "do_sample": sampling.temperature > 0,
    }
    if sampling.temperature > 0:
        config |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    return config


def _check_logits(folder: Path, reference: Decoder, tokens_BL: Tensor, tolerance: float) -> dict[str, float]:
    """Compare logits of the folder, as transformers loads it, with the reference's. Both compute in fp32."""
    from transformers import AutoModelForCausalLM  # takes seconds to import

    loader: Any = AutoModelForCausalLM
    with _quiet_transformers():
        theirs, report = loader.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
    lost = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if lost:
        raise ExportMismatch(f"transformers loads the export only in part: {lost}")
    device = reference.embedding.weight.device
    theirs, tokens_BL = theirs.to(device).eval(), tokens_BL.to(device)
    differences, sizes = [], []
    with torch.inference_mode():
        # Row by row: the logits of one row are enough to hold.
        for tokens_1L in tokens_BL.split(1):
            ours_1LV = reference.logits(reference(tokens_1L).x_BLD)
            theirs_1LV = theirs(input_ids=tokens_1L, use_cache=False).logits
            differences.append((ours_1LV - theirs_1LV).abs().max())
            sizes.append(ours_1LV.abs().max())
    difference, largest = torch.stack(differences).max().item(), torch.stack(sizes).max().item()
    relative = difference / largest if largest else difference
    if not relative <= tolerance:  # a NaN is no match
        raise ExportMismatch(
            f"logits differ from transformers' by up to {difference:.3g}, {relative:.3g} of the largest "
            f"({largest:.3g}); the tolerance is {tolerance:g}"
        )
    return {"max_logit_difference": difference, "relative_difference": relative}


def _check_tokenizer(folder: Path, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """Compare transformers' tokens with those that the model was trained on."""
    from transformers import AutoTokenizer

    with _quiet_transformers():
        theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for text in texts:
        ours_ids = tokenizer.encode(text)
        their_ids = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if their_ids != ours_ids:
            place = next((n for n, pair in enumerate(zip(ours_ids, their_ids, strict=False)) if pair[0] != pair[1]), 0)
            raise ExportMismatch(
                f"transformers' tokenizer cuts {text[:60]!r} otherwise: {their_ids[place : place + 8]} "
                f"in place of {ours_ids[place : place + 8]} from token {place} on"
            )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without progress bars and advice: what matters is in the exception."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
