"""Training speed of transformers' `Trainer` on the benchmark's Llama shape.

Needs torch, transformers and accelerate; `training_speed.py` runs it in an environment of its own.
"""

from __future__ import annotations

import tempfile

import accelerate
import common
import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments


class Windows(torch.utils.data.Dataset):
    """Samples of SEQUENCE ids; the model shifts the labels itself."""

    def __init__(self, windows: np.ndarray) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(self.windows[index, :-1].astype(np.int64))
        return {"input_ids": ids, "labels": ids}


class Stopwatch(TrainerCallback):
    """Feeds the clock once per optimizer step. The Trainer logs a step's loss after the step's end."""

    def __init__(self, clock: common.Clock) -> None:
        self.clock = clock

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.clock.tick()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.clock.tick()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if "loss" in logs:
            self.clock.losses.append(float(logs["loss"]))


def main() -> None:
    options = common.options(__doc__)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=common.VOCABULARY,
            hidden_size=common.WIDTH,
            intermediate_size=common.FFN,
            num_hidden_layers=common.LAYERS,
            num_attention_heads=common.HEADS,
            num_key_value_heads=common.HEADS,
            max_position_embeddings=common.SEQUENCE,
            rms_norm_eps=common.NORM_EPS,
            initializer_range=common.INITIAL_STD,
            tie_word_embeddings=False,
            use_cache=False,
            attn_implementation="sdpa",
        )
    )
    clock = common.Clock(options.warmup)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            bf16=options.precision == "bf16",
            torch_compile=options.compile,
            per_device_train_batch_size=common.MICRO_BATCH,
            gradient_accumulation_steps=common.ACCUMULATION,
            max_steps=options.all_steps,
            optim="adamw_torch_fused",
            learning_rate=common.LEARNING_RATE,
            lr_scheduler_type="constant",
            adam_beta1=common.BETAS[0],
            adam_beta2=common.BETAS[1],
            weight_decay=common.WEIGHT_DECAY,
            max_grad_norm=common.CLIP_NORM,
            # Reading a loss costs nothing on a CPU; the printing of it is switched off below.
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            dataloader_pin_memory=False,
            seed=common.SEED,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=Windows(common.windows(options.tokens)),
            callbacks=[Stopwatch(clock)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    versions = {"transformers": transformers.__version__, "accelerate": accelerate.__version__}
    common.finish(clock, model.num_parameters(), **versions)


if __name__ == "__main__":
    main()
