"""Parameters of which each rank keeps a part: PyTorch's FSDP (version 2) and DeepSpeed's ZeRO stage 3.

What belongs to a parameter, such as its moving average, lies in the same parts. A parameter that lies whole on every
rank, as under DDP and ZeRO stages 1 and 2, is a part of itself: nothing here moves or copies it.
"""

from typing import Any, cast

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(parameter: Tensor) -> bool:
    return isinstance(parameter, DTensor) or _in_zero(parameter)


def shape(parameter: Tensor) -> torch.Size:
    """Of the whole."""
    return torch.Size(_zero(parameter).ds_shape) if _in_zero(parameter) else parameter.shape


def part(parameter: Tensor) -> Tensor:
    """This rank's part: the memory itself, without a gradient."""
    if isinstance(parameter, DTensor):
        local: Tensor = cast(DTensor, parameter.detach()).to_local()
        return local
    kept: Tensor = _zero(parameter).ds_tensor if _in_zero(parameter) else parameter
    return kept.detach()


def part_of(whole: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of a tensor that is laid out as the parameter."""
    if isinstance(parameter, DTensor):
        return as_sharded(whole, parameter).to_local()
    if not _in_zero(parameter):
        return whole
    # ZeRO flattens a parameter, pads it, and gives each rank a slice.
    size, rank = _zero(parameter).ds_tensor.ds_numel, distributed.get_rank(_zero(parameter).ds_process_group)
    mine = whole.flatten()[rank * size : (rank + 1) * size]
    return torch.nn.functional.pad(mine, (0, size - len(mine)))


def as_sharded(whole: Tensor, parameter: DTensor) -> DTensor:
    """A tensor that all ranks have, spread over them as an FSDP parameter is; nothing is sent."""
    mesh = parameter.device_mesh
    return distribute_tensor(whole.to(mesh.device_type), mesh, parameter.placements, src_data_rank=None)


def whole(part: Tensor, parameter: Tensor) -> Tensor:
    """All ranks' parts put together on every rank, all of which must call this."""
    if isinstance(parameter, DTensor):
        mesh = parameter.device_mesh
        return DTensor.from_local(
            part.to(mesh.device_type), mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
        ).full_tensor()
    if not _in_zero(parameter):
        return part
    group = _zero(parameter).ds_process_group
    mine = part.to(parameter.device).contiguous()
    together = mine.new_empty(distributed.get_world_size(group) * len(mine))
    distributed.all_gather_into_tensor(together, mine, group=group)
    return together[: _zero(parameter).ds_numel].view(shape(parameter))


@torch.no_grad()
def fill(parameter: Tensor, whole: Tensor) -> None:
    """Overwrites a parameter; each rank its part."""
    part(parameter).copy_(part_of(whole, parameter))


def _in_zero(parameter: Tensor) -> bool:
    return hasattr(parameter, "ds_tensor")


def _zero(parameter: Tensor) -> Any:
    """What DeepSpeed adds to a parameter, torch knows nothing of."""
    return parameter
