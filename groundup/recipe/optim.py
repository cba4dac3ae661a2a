"""The recipe's `optim` section, the same for every task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from groundup.recipe.base import Fraction, Section
from groundup.recipe.quantities import Duration, DurationField, LengthField


class Optim(Section):
    """Optimizer, schedule, loss and precision."""

    optimizer: Literal["sgd", "adam", "adamw", "muon"] = Field(
        "adamw", description="muon: Muon for hidden matrices, AdamW for the rest"
    )
    lr: PositiveFloat = Field(3e-4, description="peak learning rate; Muon's steps are scaled to fit AdamW's")
    betas: list[Fraction] = Field([0.9, 0.95], min_length=2, max_length=2, description="decay rates of Adam's moments")
    eps: PositiveFloat = Field(1e-8, description="epsilon of Adam")
    momentum: Fraction = Field(0.95, description="momentum of SGD and Muon")
    weight_decay: NonNegativeFloat = Field(
        0.1, description="decoupled decay (AdamW, Muon) or L2 penalty (SGD, Adam); never on norms, biases, embeddings"
    )
    schedule: Literal["constant", "step", "linear", "cosine", "warmup-stable-decay"] = Field(
        "cosine", description="course of the learning rate after warmup"
    )
    warmup: DurationField = Field(Duration(0, "steps"), description="linear rise from zero")
    decay: DurationField | None = Field(
        None, description="length of the final decay of warmup-stable-decay; default: a fifth of the run"
    )
    step_every: LengthField | None = Field(None, description="distance of the drops of the step schedule")
    step_factor: Fraction = Field(0.1, description="factor of each drop of the step schedule")
    final_lr_fraction: Fraction = Field(0.1, description="learning rate at the end, as a share of the peak")
    clip_norm: NonNegativeFloat = Field(1.0, description="largest global gradient norm; 0: no clipping")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the target spread evenly")
    z_loss: NonNegativeFloat = Field(0.0, description="weight of the squared log-partition (PaLM, section 5)")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "bf16",
        description="number format of matrix products; weights stay fp32. On a CPU without bf16 instructions "
        "products run in fp32, many times faster there, and most of what stands between them is kept in bf16",
    )
