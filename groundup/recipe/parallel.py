"""The recipe's `parallel` section: over how many processes a run is spread, and in which way."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PlainValidator, PositiveFloat, PositiveInt, WithJsonSchema, model_validator

from groundup.recipe.base import Section


def parse_degree(value: Any) -> int | Literal["auto"]:
    # A union of types would tell each wrong value twice, once for each of them.
    if value == "auto" or (type(value) is int and value > 0):
        degree: int | Literal["auto"] = value
        return degree
    raise ValueError('a whole number above 0, or "auto"')


Degree = Annotated[
    int | Literal["auto"],
    PlainValidator(parse_degree),
    WithJsonSchema({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"const": "auto"}]}),
]


class Parallel(Section):
    """How the processes share the work. Their number is the product of all degrees but `expert`."""

    replicate: Degree = Field(
        "auto",
        description="copies of the model, each with its part of the batch; auto: 1, or what a given `shard` leaves",
    )
    shard: Degree = Field(
        "auto",
        description="processes that share one copy's weights and optimizer state (FSDP), each with its part of the "
        "batch; auto: what the other degrees leave of the processes",
    )
    tensor: PositiveInt = Field(1, description="processes that share each matrix and, between matrices, the sequence")
    pipeline: PositiveInt = Field(1, description="processes in a row, each with some of the layers")
    context: PositiveInt = Field(1, description="processes that share each sequence")
    context_attention: Literal["heads", "ring"] = Field(
        "heads",
        description="in attention, context processes share the heads (all-to-all), or keys and values go round them "
        "(ring; for more processes than heads)",
    )
    expert: PositiveInt = Field(1, description="processes that share the experts; divides shard x context")
    schedule: Literal["gpipe", "1f1b", "interleaved-1f1b", "zero-bubble", "zbv"] = Field(
        "1f1b", description="order of the micro-batches' forward and backward passes in the pipeline"
    )
    virtual_stages: PositiveInt | None = Field(
        None, description="stages per process of the pipeline; default: 1 for gpipe and 1f1b, else 2"
    )
    microbatches: PositiveInt | None = Field(
        None,
        description="micro-batches per step in the pipeline; default: a data rank's samples / train.micro_batch",
    )
    cuts: list[str] | None = Field(
        None, description='first layer of each later stage, such as ["layers.3"]; default: balanced stages'
    )
    activation_checkpointing: Literal["none", "selective", "full"] = Field(
        "none",
        description="compute activations again in the backward pass: all within a layer (full), or those that cost "
        "little (selective)",
    )
    checkpoint_every: PositiveInt = Field(1, description="activations are checkpointed in every n-th layer")
    reshard_after_forward: bool = Field(
        True, description="free gathered weights after the forward pass and gather them again for the backward pass"
    )
    offload: bool = Field(
        False,
        description="keep each process's shards of weights, gradients and optimizer state in the host's memory, and "
        "update them there; weights go to the GPU layer by layer",
    )
    hang_timeout: PositiveFloat = Field(
        600.0, description="seconds without a finished step after which the job is ended"
    )
    max_restarts: NonNegativeInt = Field(
        3,
        description="restarts after lost processes or nodes, in a row without a new checkpoint",
    )

    @model_validator(mode="after")
    def _derive(self) -> Self:
        """Fill what follows from the rest, so that a resolved recipe shows every value."""
        if self.virtual_stages is None:
            object.__setattr__(self, "virtual_stages", 1 if self.schedule in ("gpipe", "1f1b") else 2)
        return self

    @property
    def stages(self) -> int:
        """Stages of the pipeline, over all its processes."""
        assert self.virtual_stages is not None
        return self.pipeline * self.virtual_stages
