"""Training by PyTorch's FSDP (version 2), on GPUs and, over gloo, on processors.

    accelerate launch --config_file launch/configs/fsdp.yaml -m launch.train_dynamics carracing --optimizer adamw

The layers of the transformers are spread one by one, so that a rank holds one of them whole at a time.
"""

import warnings

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

from launch.engine import OfTorch, refuse_muon
from launch.optimizers import OptimizerConfig, make_optimizers
from tokenizer.draws import Rows
from tokenizer.records import Clip
from tokenizer.transformer import SpaceTimeTransformer


class FullySharded(OfTorch):
    """A part of each layer's parameters, gradients and optimizer state on each rank (PyTorch's FSDP, version 2).

    Frozen parameters lie whole on each rank.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig, accelerator: Accelerator) -> None:
        super().__init__(model, config, accelerator)
        plugin = FullyShardedDataParallelPlugin()  # what the launcher's config says
        if plugin.fsdp_version != 2:
            raise ValueError(
                f"the launcher's config has fsdp_version={plugin.fsdp_version}: give it 2, as launch/configs/fsdp.yaml "
                "does"
            )
        if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
            raise ValueError(
                "the launcher's config has fsdp_offload_params: give it false, or start with --config_file "
                "launch/configs/zero3_offload.yaml"
            )
        refuse_muon(config, "FSDP")
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        frozen = {p for p in model.parameters() if not p.requires_grad}
        for parameter in frozen:
            parameter.data = parameter.to(accelerator.device)
        # Layers are put together in bf16, which autocast would make of them: half to send, and no second copy of each
        # that lives until the backward pass. Gradients are averaged in 32 bits.
        self._half = accelerator.mixed_precision == "bf16"
        weights = torch.bfloat16 if self._half else None
        policy = MixedPrecisionPolicy(param_dtype=weights, reduce_dtype=torch.float32, cast_forward_inputs=False)
        reshard = bool(plugin.reshard_after_forward)
        for module in reversed(list(model.modules())):  # from the inside out
            if isinstance(module, SpaceTimeTransformer):
                for layer in module.layers:
                    fully_shard(
                        layer, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard, ignored_params=frozen
                    )
        self._sharded = fully_shard(model, mesh=mesh, ignored_params=frozen)
        self.optimizers = make_optimizers(model, config)
        # A time layer gives views, which no one changes in place: what torch warns of here cannot happen.
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
        model.train()

    def learn(self, batch: Clip, rows: Rows, *, parts: int, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        self._sharded.set_requires_gradient_sync(last)
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self._half):
            loss, metrics = self.model(batch, rows)
        (loss / parts).backward()
        return loss, metrics
