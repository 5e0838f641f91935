"""Training by DeepSpeed's ZeRO, stages 1 to 3, with or without the optimizer in the processor's memory.

    accelerate launch --config_file launch/configs/zero2.yaml -m launch.train_dynamics carracing --optimizer adamw

DeepSpeed divides the losses of accumulated parts, cuts the gradient and steps by itself, so its config gets from the
command what belongs to the command, and a config that says otherwise is refused. bf16 means autocast here as
everywhere: weights and the optimizer's state stay in 32 bits, as do the running scales of losses. What is sent has 32
bits too, but at stage 3 the weights of linear layers and their gradients.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from launch.engine import Engine, Remembered, refuse_muon
from launch.optimizers import OptimizerConfig, make_optimizers
from tokenizer.draws import Rows
from tokenizer.records import Clip

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter, beside the count of its steps."""


def complete_config(
    config: dict[str, Any], *, ranks: int, rows: int, accumulate: int, grad_clip: float, half: bool
) -> None:
    """Writes into the launcher's DeepSpeed config what the command decides: once, before a model is made.

    `rows` are those of a rank and part; `half` asks for autocast to bf16. Raises ValueError where the two contradict.
    """
    ours = {
        "train_micro_batch_size_per_gpu": (rows, "--batch-size"),
        "gradient_accumulation_steps": (accumulate, "--accumulate"),
        "gradient_clipping": (grad_clip, "--grad-clip"),
        "train_batch_size": (rows * accumulate * ranks, "--batch-size x --accumulate x processes"),
    }
    for key, (value, options) in ours.items():
        # accelerate fills in one part where a file names none.
        unsaid = (None, "auto", 1) if key == "gradient_accumulation_steps" else (None, "auto")
        if config.get(key) not in (*unsaid, value):
            raise ValueError(
                f"the DeepSpeed config says {key}={config[key]}, but {options} is {value}: "
                'give both the same, or write "auto" there'
            )
        config[key] = value
    for section, options in (("optimizer", "--optimizer and --learning-rate"), ("scheduler", "--schedule")):
        if section in config:
            raise ValueError(f"the DeepSpeed config has a section {section!r}: leave it out and give {options}")
    for section in ("fp16", "bf16"):
        if config.get(section, {}).get("enabled") is True:
            raise ValueError(
                f"the DeepSpeed config keeps weights in {section}, which loses small updates: leave the section "
                f"{section!r} out, since --precision bf16 calculates in bf16 with weights in 32 bits"
            )
        config.pop(section, None)
    zero = config["zero_optimization"]
    autocast = config.setdefault("torch_autocast", {"enabled": half, "dtype": "bfloat16"})
    if zero["stage"] != 3:
        autocast.setdefault("lower_precision_safe_modules", [])  # what is exchanged in 16 bits
    if autocast.get("enabled", False) != half:
        raise ValueError(
            f"the DeepSpeed config says torch_autocast.enabled={autocast.get('enabled', False)}, but --precision is "
            f"{'bf16' if half else 'fp32'}: leave the section 'torch_autocast' out, or give both the same"
        )
    if zero["stage"] not in (1, 2, 3):
        raise ValueError(
            f"the DeepSpeed config has ZeRO stage {zero['stage']}, have: 1, 2, 3; without ZeRO start with "
            "--config_file launch/configs/ddp.yaml"
        )
    for section in ("offload_optimizer", "offload_param"):
        device = (zero.get(section) or {}).get("device", "none")
        if device not in ("none", "cpu"):
            raise ValueError(f"the DeepSpeed config has {section}.device={device}, have: none, cpu")
        if device == "none":
            zero.pop(section, None)
    _calm()


def launcher_config(accelerator: Accelerator) -> dict[str, Any]:
    """That of DeepSpeed, as the launcher read it."""
    config: dict[str, Any] = accelerator.state.deepspeed_plugin.deepspeed_config
    return config


@contextmanager
def spreading(accelerator: Accelerator) -> Iterator[None]:
    """At ZeRO stage 3 each module of a model that is made inside is spread over the ranks as soon as it is made.

    So there may be a model that no single device could hold. On a GPU it draws the first weights there: others than
    without, from the same distributions.
    """
    config = launcher_config(accelerator)
    if config["zero_optimization"]["stage"] != 3:
        yield
        return
    from deepspeed import zero

    with zero.Init(config_dict_or_path=config), _Gathering():
        yield


class _Gathering(TorchFunctionMode):
    """Puts a parameter together for a function that changes it, as where a module sets the first weights of a part."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from deepspeed import zero
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        changes = name.endswith("_") and not name.endswith("__")
        target = args[0] if args else kwargs.get("tensor")  # as torch.nn.init names it
        if not changes or getattr(target, "ds_status", None) is not ZeroParamStatus.NOT_AVAILABLE:
            return func(*args, **kwargs)
        with zero.GatheredParameters([target], modifier_rank=0):
            return func(*args, **kwargs)


class Zero(Engine):
    """Optimizer state (1), gradients (2) and parameters (3) in parts on the ranks.

    Needs `complete_config` before.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig, accelerator: Accelerator) -> None:
        super().__init__(model, config, accelerator)
        refuse_muon(config, "DeepSpeed")
        (optimizer,) = make_optimizers(model, config)
        self._engine, _ = accelerator.prepare(model, optimizer)
        self._zero = self._engine.optimizer
        self.optimizers = [self._zero.optimizer]  # AdamW, or DeepSpeed's own where it is offloaded
        self._count_from(0)
        self._engine.train()

    def learn(self, batch: Clip, rows: Rows, *, parts: int, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        self._engine.set_gradient_accumulation_boundary(last)
        loss, metrics = self._engine(batch, rows)
        self._engine.backward(loss)  # divides by the number of parts
        return loss, metrics

    def clip(self, limit: float) -> Tensor:
        """Also updates the weights, unless the norm is not finite: to DeepSpeed that is one step."""
        self._engine.step()
        return torch.as_tensor(self._engine.get_global_grad_norm(), device=self.accelerator.device)

    def step(self) -> None:
        """Was done in `clip`."""

    def remembered(self) -> Iterator[tuple[str, str, Tensor]]:
        from deepspeed.utils import safe_get_full_optimizer_state

        steps = next(iter(self.optimizers[0].state.values()))["step"]
        for name, parameter in _trainable(self.model):
            yield name, "step", torch.as_tensor(steps, dtype=torch.float32)
            for field in MOMENTS:
                yield name, field, safe_get_full_optimizer_state(parameter, field)

    def remember(self, values: Remembered) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        self._count_from(int(next(iter(values.values()))["step"]))
        for name, parameter in _trainable(self.model):
            for field in MOMENTS:
                safe_set_full_optimizer_state(parameter, values[name][field].to(self.accelerator.device), field)

    def _count_from(self, steps: int) -> None:
        """AdamW's state after so many steps, its moments zero.

        It is made here and not by the first step, since stages 1 and 2 find the moments of a parameter by a link that
        DeepSpeed makes once the first of several groups of parameters has any.
        """
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        (optimizer,) = self.optimizers
        on_cpu = isinstance(optimizer, DeepSpeedCPUAdam)
        for flat in self._flat_weights():
            count = steps if on_cpu else torch.tensor(float(steps), device=flat.device)
            optimizer.state[flat] = {"step": count, **{field: torch.zeros_like(flat) for field in MOMENTS}}
        if hasattr(self._zero, "_lazy_init_hp_params_optimizer_state"):
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()

    def _flat_weights(self) -> list[Tensor]:
        """This rank's part of the weights as the optimizer has them: flat, a tensor for each group."""
        flat: list[Tensor]
        for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):  # stages 1 and 2, stage 3
            flat = getattr(self._zero, name, [])
            if flat:
                return flat
        raise RuntimeError(f"{type(self._zero).__name__} has no flat weights")


def _trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _calm() -> None:
    """DeepSpeed says much; it compiles parts of itself at first use, with a tool that lies beside this Python."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    beside = os.path.dirname(sys.executable)
    if beside not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([beside, os.environ.get("PATH", "")])
