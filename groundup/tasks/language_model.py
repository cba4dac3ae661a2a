"""The task `language-model`: token windows, a decoder, next-token cross-entropy, perplexity and bits per byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from groundup.data.batches.batch import Batch
from groundup.data.batches.stream import TokenStream
from groundup.data.inputs import check_length
from groundup.data.tokens.packed import packed_windows
from groundup.data.tokens.shards import open_sources
from groundup.data.tokens.tokenizer import Tokenizer
from groundup.errors import UserError
from groundup.evaluate.language_model import evaluate_stream
from groundup.models.decoder import Decoder, Hidden, build_decoder
from groundup.models.experts import Router
from groundup.models.sampling import generate
from groundup.optim.precision import autocast
from groundup.parallel.build import evaluation_rows
from groundup.parallel.model import ParallelModel
from groundup.plan.shapes import flops_per_token
from groundup.recipe.language import LanguageRecipe
from groundup.rundir import RunDir, load_manifest

SAMPLE_SEED = 1  # the same for every sampling of a run, so that samples differ by the model alone


class LanguageModel:
    """Everything the loop needs to know of the task."""

    def __init__(self, recipe: LanguageRecipe, run: RunDir) -> None:
        self.recipe = recipe
        self.manifest = load_manifest(run)
        self.tokenizer = Tokenizer(run.data / "tokenizer")
        self.vocab_size = recipe.model.vocab_size or self.tokenizer.vocab_size
        self.length = recipe.train.sequence_length
        check_length(self.length, self.manifest)
        self._check_prompts()
        joined = self.tokenizer.end_id is None
        train, validation = (open_sources(run.data, self.manifest, split) for split in ("train", "validation"))
        packed = None
        if recipe.train.packing == "best-fit":
            key = self.manifest["fingerprint"][:16]
            packed = [
                packed_windows(run.data / "packed", f"{key}-{n:03d}", source, self.length, joined)
                for n, source in enumerate(train)
            ]
        start_id = self.tokenizer.start_id
        self.train = TokenStream(train, self.length, recipe.seed, start_id, joined, packed)
        self.validation = TokenStream(validation, self.length, recipe.seed, start_id, joined)

    def _check_prompts(self) -> None:
        """Raise UserError where a prompt leaves no room for a token behind it."""
        room = self.recipe.model.context_length
        for number, prompt in enumerate(self._prompt_ids()):
            if len(prompt) >= room:
                raise UserError(
                    f"this prompt has {len(prompt)} tokens with its start token, and the model's context {room}",
                    where=f"sampling.prompts[{number}]",
                    expected=f"less than {room}",
                )

    def _prompt_ids(self) -> list[list[int]]:
        return [[self.tokenizer.start_id, *self.tokenizer.encode(prompt)] for prompt in self.recipe.sampling.prompts]

    unit = "tokens"

    @property
    def units_per_sample(self) -> int:
        return self.length

    @property
    def samples_per_epoch(self) -> int:
        return self.train.samples_per_epoch

    @property
    def evaluation_samples(self) -> int:
        return self.validation.samples_per_epoch

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be taken up."""
        model = self.recipe.model.model_dump(exclude={"preset"})
        return {
            "data": self.manifest["fingerprint"],
            "tokenizer": self.tokenizer.sha256,
            "model": {**model, "vocab_size": self.vocab_size},
            "seed": self.recipe.seed,
            "sequence_length": self.length,
            "packing": self.recipe.train.packing,
        }

    @property
    def flops_per_sample(self) -> float:
        return flops_per_token(self.recipe.model, self.vocab_size, self.length) * self.length

    def skeleton(self) -> Decoder:
        with torch.device("meta"):
            return Decoder(self.recipe.model, self.vocab_size)

    def build(self, device: torch.device) -> Decoder:
        return build_decoder(self.recipe.model, self.vocab_size, self.recipe.seed, device)

    def layers(self, model: Decoder) -> nn.ModuleList:
        return model.layers

    def batch(self, start: int, stop: int) -> Batch:
        """Samples [start, stop) of the training stream."""
        return self.train.samples(start, stop)

    def cross_entropy(self, model: Decoder, output: Hidden, batch: Batch) -> Tensor:
        """Summed over the counted tokens, without smoothing or z-loss."""
        _, plain = model.cross_entropy(output.x_BLD, model.output_weight, batch.labels_BL, batch.weights_BL)
        cross_entropy: Tensor = plain
        return cross_entropy

    def arguments(self, batch: Batch) -> dict[str, Tensor | None]:
        return {"tokens_BL": batch.tokens_BL, "documents_BL": batch.documents_BL}

    def loss(self, model: Decoder, output: Hidden, batch: Batch) -> tuple[Tensor, Tensor]:
        """(what is minimised, cross-entropy to display), both sums over the counted tokens."""
        optim = self.recipe.optim
        loss, plain = model.cross_entropy(
            output.x_BLD,
            model.output_weight,
            batch.labels_BL,
            batch.weights_BL,
            label_smoothing=optim.label_smoothing,
            z_loss=optim.z_loss,
        )
        return loss if output.auxiliary is None else loss + output.auxiliary, plain

    def documents(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Of each sample its source, window, tokens [first, end) in the source, and the ids of its documents."""
        from groundup.data.batches import origins

        return origins.documents(self.train, start, stop)

    def origins(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Each document of each sample: sample, id, source, file, offset in the file."""
        from groundup.data.batches import origins

        return origins.origins(self.train, start, stop)

    def after_step(
        self, model: Decoder, sum_over_tokens: Callable[[Tensor], Tensor], skip: Tensor | None = None
    ) -> None:
        """What the model does once per optimizer step: balance its experts."""
        for module in model.modules():
            if isinstance(module, Router):
                module.update_bias(sum_over_tokens, skip)

    @property
    def validation_bytes_per_token(self) -> float:
        """UTF-8 bytes of validation text per label that counts: of each source all tokens but the first are labels;
        with an end token of their own, documents' starts don't count."""
        split = self.manifest["splits"]["validation"]
        labels = split["tokens"] - len(self.validation.sources)
        return float(split["bytes"] / (labels if self.validation.joined else labels - split["documents"]))

    def validate(self, model: ParallelModel, device: torch.device) -> dict[str, float]:
        """Loss, perplexity and bits per byte on the first `train.validation_tokens` of the validation part."""
        windows = min(self.evaluation_samples, max(1, self.recipe.train.validation_tokens // self.length))
        return self._score(model, device, windows)

    def evaluate(self, model: ParallelModel, device: torch.device, advance: Callable[[int], None]) -> dict[str, Any]:
        """The same on the whole validation part."""
        return self._score(model, device, self.evaluation_samples, advance)

    def describe(self, metrics: dict[str, Any]) -> str:
        return (
            f"loss {metrics['loss']:.4f}, perplexity {metrics['perplexity']:.2f}, "
            f"{metrics['bits_per_byte']:.4f} bits per byte over {metrics['tokens']:,} tokens"
        )

    def _score(
        self, model: ParallelModel, device: torch.device, windows: int, advance: Callable[[int], None] | None = None
    ) -> dict[str, float]:
        recipe = self.recipe
        return evaluate_stream(
            model,
            self,
            self.validation,
            windows=windows,
            rows=evaluation_rows(recipe, model, recipe.evaluate.micro_batch or recipe.train.micro_batch),
            bytes_per_token=self.validation_bytes_per_token,
            context=autocast(recipe.optim.precision, device),
            device=device,
            on_windows=advance,
        )

    def sample(self, model: Decoder, device: torch.device) -> list[dict[str, str]]:
        """Texts that continue the recipe's prompts."""
        sampling, tokenizer = self.recipe.sampling, self.tokenizer
        with autocast(self.recipe.optim.precision, device):
            outputs = generate(
                model,
                self._prompt_ids(),
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                seed=SAMPLE_SEED,
                stop_ids=tokenizer.stop_ids,
            )
        return [
            {"prompt": prompt, "text": tokenizer.decode(output)}
            for prompt, output in zip(sampling.prompts, outputs, strict=True)
        ]
