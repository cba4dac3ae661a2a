"""Mixture of experts: top-k routing without dropped tokens, experts as stacked tensors through grouped products.

Shapes: B batch, L sequence, D width of the model, E experts, F width of an expert, N = B * L tokens,
P = N * per_token routed copies, sorted by expert.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.models.feedforward import FeedForward
from groundup.optim.precision import autocast_dtype, product_dtype_of
from groundup.recipe.model import Experts


class Router(nn.Module):
    """Scores each token against each expert, in fp32 whatever the precision of the rest; what it scores is the norm's
    output, which has autocast's.

    Balancing by auxiliary loss: Switch Transformer, arXiv:2101.03961, equation 4, taken per sequence.
    Balancing by bias: DeepSeek-V3, arXiv:2412.19437, section 2.1.2: the bias takes part in the choice only.
    """

    bias_E: Tensor
    load_E: Tensor

    def __init__(self, hidden_size: int, experts: Experts) -> None:
        super().__init__()
        self.experts = experts
        self.weight = nn.Parameter(torch.empty(experts.count, hidden_size))
        if experts.balance == "bias":
            self.register_buffer("bias_E", torch.zeros(experts.count))
        self.register_buffer("load_E", torch.zeros(experts.count), persistent=False)
        self.sequence_counts = nn.Identity()  # where a sequence is cut over ranks, their sum

    def reset_buffers(self, device: torch.device | str) -> None:
        self.load_E = torch.zeros_like(self.load_E, device=device)
        if self.experts.balance == "bias":
            self.bias_E = torch.zeros_like(self.bias_E, device=device)

    def forward(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights [B, L, k] in fp32, expert ids [B, L, k], auxiliary loss (fp32 scalar, summed over tokens)."""
        with torch.autocast(x_BLD.device.type, enabled=False):
            probability_BLE = F.linear(x_BLD.float(), self.weight.float()).softmax(-1)
        score_BLE = probability_BLE
        if self.experts.balance == "bias":
            score_BLE = probability_BLE + self.bias_E
        chosen_BLk = score_BLE.topk(self.experts.per_token, dim=-1).indices
        weight_BLk = probability_BLE.gather(-1, chosen_BLk)
        if self.experts.renormalise:
            weight_BLk = weight_BLk / weight_BLk.sum(-1, keepdim=True)
        count_BE = torch.zeros_like(probability_BLE[:, 0]).scatter_add_(
            1, chosen_BLk.flatten(1), torch.ones_like(chosen_BLk.flatten(1), dtype=probability_BLE.dtype)
        )
        if self.training:
            # Doubled for a layer that is computed again for the backward pass, which no comparison with the mean sees.
            self.load_E += count_BE.detach().sum(0)
        auxiliary = probability_BLE.new_zeros(())
        if self.experts.balance == "auxiliary":
            count_BE = self.sequence_counts(count_BE)
            share_BE = count_BE / count_BE.sum(-1, keepdim=True)
            per_sequence_B = self.experts.count * (share_BE * probability_BLE.sum(1)).sum(-1)
            auxiliary = self.experts.auxiliary_weight * per_sequence_B.sum()
        return weight_BLk, chosen_BLk, auxiliary

    @torch.no_grad()
    def update_bias(self, sum_over_tokens: Callable[[Tensor], Tensor], skip: Tensor | None = None) -> None:
        """Once per optimizer step: raise the bias of experts that got less than the mean load, lower the others'.
        Where `skip` is 1 the biases stay, and only the counts are cleared."""
        if self.experts.balance == "bias":
            sum_over_tokens(self.load_E)
            bias_E = self.bias_E + self.experts.bias_update_rate * torch.sign(self.load_E.mean() - self.load_E)
            self.bias_E.copy_(bias_E if skip is None else torch.where(skip > 0, self.bias_E, bias_E))
        self.load_E.zero_()


class ExpertStack(nn.Module):
    """Experts are stacked: gate and up [E, F, D], down [E, D, F]."""

    def __init__(self, hidden_size: int, ffn_size: int, count: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(count, ffn_size, hidden_size))
        self.up = nn.Parameter(torch.empty(count, ffn_size, hidden_size))
        self.down = nn.Parameter(torch.empty(count, hidden_size, ffn_size))

    def forward(self, x_PD: Tensor, count_E: Tensor) -> Tensor:
        """Each expert on its rows: `count_E` (int64) of them, one expert after the other."""
        ends_E = count_E.cumsum(0).to(torch.int32)
        gate_PF = F.grouped_mm(x_PD, self.gate.to(x_PD.dtype).transpose(1, 2), offs=ends_E)
        up_PF = F.grouped_mm(x_PD, self.up.to(x_PD.dtype).transpose(1, 2), offs=ends_E)
        return F.grouped_mm(F.silu(gate_PF) * up_PF, self.down.to(x_PD.dtype).transpose(1, 2), offs=ends_E)


class MixtureOfExperts(nn.Module):
    """Every token through the experts its router chose, and through the shared one where there is one."""

    def __init__(self, hidden_size: int, experts: Experts) -> None:
        super().__init__()
        assert experts.ffn_size is not None
        self.count = experts.count
        self.router = Router(hidden_size, experts)
        self.experts = ExpertStack(hidden_size, experts.ffn_size, experts.count)
        self.shared = FeedForward(hidden_size, experts.shared_ffn_size) if experts.shared_ffn_size else None

    def forward(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Output of the same shape, and the auxiliary loss summed over tokens."""
        weight_BLk, chosen_BLk, auxiliary = self.router(x_BLD)
        x_ND, per_token = x_BLD.flatten(0, 1), chosen_BLk.shape[-1]
        expert_P, order_P = chosen_BLk.flatten().sort(stable=True)
        count_E = torch.bincount(expert_P, minlength=self.count)
        dtype = product_dtype_of(x_ND)
        y_PD = self.experts(x_ND[order_P // per_token].to(dtype), count_E)
        y_PD = y_PD * weight_BLk.flatten()[order_P, None].to(y_PD.dtype)
        y_ND = torch.zeros_like(x_ND, dtype=y_PD.dtype).index_add_(0, order_P // per_token, y_PD)
        y_BLD = y_ND.to(autocast_dtype(x_BLD)).view_as(x_BLD)
        if self.shared is not None:
            y_BLD = y_BLD + self.shared(x_BLD)
        return y_BLD, auxiliary
