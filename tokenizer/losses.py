"""What the losses share: running-RMS normalisation, and means over the entries that count."""

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn


class RunningRMS(nn.Module):
    """Divides a loss by a running estimate of its own root mean square (Dreamer 4, sec. 3.1).

    m <- decay m + (1 - decay) L^2, starting at the first L^2; L is averaged over ranks before it enters m.
    """

    def __init__(self, decay: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__()
        self.decay = decay
        self.eps = eps
        self.register_buffer("mean_square", torch.tensor(-1.0))  # negative: nothing seen yet

    mean_square: Tensor

    def forward(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        if self.training:
            self.update(loss.detach().float())
        scale = torch.where(self.mean_square < 0, torch.ones_like(self.mean_square), self.mean_square.sqrt())
        return loss / scale.clamp_min(self.eps)

    @torch.no_grad()
    def update(self, loss: Tensor) -> None:
        if distributed.is_available() and distributed.is_initialized():
            loss = loss.clone()
            distributed.all_reduce(loss)
            loss = loss / distributed.get_world_size()
        square = loss.square()
        if not torch.isfinite(square):
            return  # the loop stops at such a loss; the estimate must not carry it into a checkpoint
        blended = self.decay * self.mean_square + (1 - self.decay) * square
        self.mean_square.copy_(torch.where(self.mean_square < 0, square, blended))


def mean_where(values: Tensor, mask: Tensor) -> Float[Tensor, ""]:
    """Over the entries where the mask is true; 0 where there are none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)
