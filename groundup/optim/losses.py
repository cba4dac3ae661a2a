"""Cross-entropy of the output projection that never holds the logits of all tokens.

The vocabulary may be cut over the ranks of a group: each then holds some rows of the projection, and what a softmax
needs of the others' logits are their largest, their sum and the target's (Megatron-LM, arXiv:1909.08053, section 3).

Shapes: N tokens, C tokens of one chunk, D width of the model, V vocabulary (or this rank's rows of it).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup, ReduceOp

from groundup.optim.precision import product_dtype_of

# Logits of one chunk in fp32: enough rows for fast products, little beside all tokens' (docs/lab-notes.md; CUDA
# unmeasured). In another format as much again is held, and a chunk has half the rows.
_CHUNK_BYTES = {"cpu": 32 << 20, "cuda": 512 << 20}


class VocabularyCut(NamedTuple):
    """This rank's rows of a projection that is cut over a group: from `start`; of `total` rows in all."""

    group: ProcessGroup
    start: int
    total: int


def _chunk(hidden_ND: Tensor, weight_VD: Tensor, dtype: torch.dtype, cut: VocabularyCut | None) -> int:
    """Tokens of a chunk; the same on all ranks of a cut vocabulary, whose last block may be shorter."""
    rows = weight_VD.shape[0] if cut is None else -(-cut.total // dist.get_world_size(cut.group))
    width = 4 if dtype == torch.float32 else 8
    return max(16, _CHUNK_BYTES.get(hidden_ND.device.type, 64 << 20) // (width * rows))


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are made chunk by chunk in the forward pass, while the chunk's logits are there, and scaled by the
    incoming gradient in the backward pass: the loss is a sum, so that gradient is one number."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        labels_N: Tensor,
        weights_N: Tensor,
        smoothing: float,
        z_loss: float,
        dtype: torch.dtype,
        cut: VocabularyCut | None,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        vocab = weight_VD.shape[0] if cut is None else cut.total
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        matrix_VD = weight_VD.to(dtype)
        grad_hidden_ND = torch.empty_like(hidden_ND) if need_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD) if need_weight else None
        total, plain = (torch.zeros((), dtype=torch.float32, device=hidden_ND.device) for _ in range(2))
        chunk = min(_chunk(hidden_ND, weight_VD, dtype, cut), max(1, hidden_ND.shape[0]))
        buffer_CV = torch.empty(chunk, weight_VD.shape[0], dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, hidden_ND.shape[0], chunk):
            part = slice(start, start + chunk)
            hidden_CD, label_C1, counted_C1 = hidden_ND[part].to(dtype), labels_N[part, None], weights_N[part, None]
            logits_CV = buffer_CV[: hidden_CD.shape[0]]
            if dtype == torch.float32:
                torch.mm(hidden_CD, matrix_VD.t(), out=logits_CV)
            else:
                logits_CV.copy_(hidden_CD @ matrix_VD.t())
            softmax = _softmax if cut is None else _softmax_over_ranks
            p_CV, log_partition_C1, target_logit_C1, mean_logit_C1, label_C1, here_C1 = softmax(
                logits_CV, label_C1, smoothing, cut
            )
            loss_C1 = log_partition_C1 - (1.0 - smoothing) * target_logit_C1 - smoothing * mean_logit_C1
            if z_loss:
                loss_C1 = loss_C1 + z_loss * log_partition_C1.square()
            total += (loss_C1 * counted_C1).sum()
            plain += ((log_partition_C1 - target_logit_C1) * counted_C1).sum()
            if not (need_hidden or need_weight):
                continue
            grad_CV = p_CV
            if z_loss:
                grad_CV.mul_(1.0 + 2.0 * z_loss * log_partition_C1)
            if smoothing:
                grad_CV.sub_(smoothing / vocab)
            grad_CV.scatter_add_(1, label_C1, here_C1 * (smoothing - 1.0))
            grad_CV = grad_CV.to(dtype)
            # The weights are multiplied in where the tensors are narrow.
            if grad_hidden_ND is not None:
                grad_hidden_ND[part] = (grad_CV @ matrix_VD) * counted_C1
            if grad_weight_VD is not None:
                counted_CD = (hidden_CD * counted_C1).to(dtype)
                if dtype == grad_weight_VD.dtype:
                    grad_weight_VD.addmm_(grad_CV.t(), counted_CD)
                else:
                    grad_weight_VD += grad_CV.t() @ counted_CD
            del grad_CV  # or it is held while the next chunk's logits are made
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        ctx.keep = keep
        ctx.mark_non_differentiable(plain)
        return total, plain

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale, _ = grad_outputs
        # The buffers are ours alone; used once, they need no copy.
        multiply = torch.mul if ctx.keep else Tensor.mul_
        hidden, weight = (None if x is None else multiply(x, scale) for x in ctx.saved_tensors)
        return hidden, weight, *[None] * 7


Softmax = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _softmax(logits_CV: Tensor, label_C1: Tensor, smoothing: float, cut: VocabularyCut | None) -> Softmax:
    """Probabilities (in place), logarithm of the partition, logit of the target, mean logit (where smoothing needs it),
    the labels, and ones."""
    target_logit_C1, largest_C1 = logits_CV.gather(1, label_C1), logits_CV.amax(1, keepdim=True)
    mean_logit_C1 = logits_CV.mean(1, keepdim=True) if smoothing else target_logit_C1
    p_CV = torch.softmax(logits_CV, 1, out=logits_CV)
    # The largest probability is at least 1 / V, so its logarithm is exact where the label's could be log(0).
    log_partition_C1 = largest_C1 - p_CV.amax(1, keepdim=True).log_()
    return p_CV, log_partition_C1, target_logit_C1, mean_logit_C1, label_C1, torch.ones_like(target_logit_C1)


def _softmax_over_ranks(logits_CV: Tensor, label_C1: Tensor, smoothing: float, cut: VocabularyCut | None) -> Softmax:
    """The same over the logits of all ranks; labels as this rank's rows, and 1 where the label is one of them."""
    assert cut is not None
    largest_C1 = logits_CV.amax(1, keepdim=True)
    dist.all_reduce(largest_C1, ReduceOp.MAX, cut.group)
    local_C1 = label_C1 - cut.start
    here_C1 = ((local_C1 >= 0) & (local_C1 < logits_CV.shape[1])).float()
    local_C1 = local_C1.clamp(0, logits_CV.shape[1] - 1)
    target_C1, sum_C1 = logits_CV.gather(1, local_C1) * here_C1, logits_CV.sum(1, keepdim=True)
    p_CV = logits_CV.sub_(largest_C1).exp_()
    shared_C3 = torch.cat((p_CV.sum(1, keepdim=True), target_C1, sum_C1), 1)
    dist.all_reduce(shared_C3, group=cut.group)
    partition_C1, target_C1, sum_C1 = shared_C3.split(1, 1)
    return p_CV.div_(partition_C1), largest_C1 + partition_C1.log(), target_C1, sum_C1 / cut.total, local_C1, here_C1


def linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    weights_N: Tensor,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    cut: VocabularyCut | None = None,
    keep: bool = False,
) -> tuple[Tensor, Tensor]:
    """Sum over tokens of weight x cross-entropy of softmax(hidden @ weight.T), an fp32 scalar; and the same without
    smoothing and z-loss, to display, which has no gradient.

    labels: int64; weights: fp32, 0 leaves a token out. label_smoothing e: the target is 1 - e plus e / V everywhere
    (Szegedy et al., arXiv:1512.00567). z_loss z adds z x log(partition)^2 (PaLM, arXiv:2204.02311, section 5).
    Products run in autocast's number format where it is on; softmax and sums in fp32.
    Can be differentiated once, or more often where `keep` is set.
    cut: the vocabulary is cut over ranks; each gets the whole loss, and its own rows' part of hidden's gradient.
    """
    kind = hidden_ND.device.type
    dtype = product_dtype_of(hidden_ND)
    with torch.autocast(kind, enabled=False):
        loss, plain = _LinearCrossEntropy.apply(
            hidden_ND, weight_VD, labels_N, weights_N, label_smoothing, z_loss, dtype, cut, keep
        )
    return loss, plain


class LinearCrossEntropy(nn.Module):
    """`linear_cross_entropy` as the part of a model that layouts can adapt."""

    cut: VocabularyCut | None = None
    keep = False

    def forward(
        self,
        hidden_BLD: Tensor,
        weight_VD: Tensor,
        labels_BL: Tensor,
        weights_BL: Tensor,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        return linear_cross_entropy(
            hidden_BLD.flatten(0, 1),
            weight_VD,
            labels_BL.flatten(),
            weights_BL.flatten(),
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            cut=self.cut,
            keep=self.keep,
        )
