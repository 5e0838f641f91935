"""The one training loop: every model of this project trains here.

It knows this of a model: `model(batch, generator)` is its training loss, `(loss, metrics)`; where terms are normalised,
the metrics hold the raw "loss" that is logged in its place. `model.config`, if any, is the frozen dataclass it was made
from and goes into the checkpoint. All randomness of a step comes from `generator`, whose numbers are a
function of (seed, step, row), rows counted over all ranks: so a resumed run equals one that was never stopped, and two
processes with half the rows each learn what one with all of them learns, where the stream gives them the same rows.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.optim import Optimizer

from launch import checkpoint
from launch.distributed import Precision, Tracker
from launch.ema import Ema
from launch.interrupt import Interrupts
from launch.optimizers import OptimizerConfig, learning_rate, make_optimizers
from launch.report import Report
from tokenizer.draws import Rows
from tokenizer.records import Clip


@runtime_checkable
class Stream(Protocol):
    """Batches without end; its state counts the batches that were taken from it."""

    def __iter__(self) -> Iterator[Clip]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> str | None:
        """A sentence where it can go on, but not as a straight run would have."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig(OptimizerConfig):
    """In a command's config it is `loop: Annotated[LoopConfig, tyro.conf.arg(name="")]`, so that `--steps` sets it."""

    accumulate: int = 1
    """Batches whose gradients make up a step, in the memory of one: their mean, and so that of all their rows where the
    batches are of one size. Running scales of losses see each batch by itself."""
    grad_clip: float = 1.0
    """The gradient's norm is cut to this."""
    ema_decay: float = 0.999
    """Of the moving average of the weights; 0 keeps none."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Newest checkpoints that are kept."""
    precision: Precision = "bf16"
    """Of the forward pass; weights and optimizer are kept in 32 bits."""
    seed: int = 0
    """Of the initial weights, the order of the data and all noise."""
    compile: bool = False
    """Whether the command compiles the model before it trains (see `launch.compiling`)."""
    activation_checkpointing: bool = False
    """Whether the backward pass computes each layer again: a third more work for a fraction of the memory."""
    tracker: Tracker = "tensorboard"
    """Where the curves are drawn, under the run's logs folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("log_every", "save_every", "keep", "grad_clip", "accumulate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay} must be in [0, 1); 0 keeps no average")


class Progress(NamedTuple):
    """How far a run has come, and what to say about that."""

    step: int
    seconds: float
    warning: str | None


def train(
    model: nn.Module,
    stream: Stream,
    config: LoopConfig,
    run: Path,
    *,
    accelerator: Accelerator,
    evaluate: Callable[[nn.Module, int], Mapping[str, float]] | None = None,
    evaluate_every: int = 0,
) -> None:
    """Trains from the run's newest checkpoint, if there is one, to `config.steps`.

    `evaluate(model, step)` runs on the main process with the averaged weights, every `evaluate_every` steps and at the
    end. Ctrl-C and SIGTERM save and exit.
    """
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP):
        raise ValueError(
            f"the launcher's config asks for {accelerator.distributed_type.value}, whose checkpoints are not supported "
            "yet: start with `accelerate launch --multi_gpu --num_processes N -m launch.NAME`"
        )
    path = checkpoint.latest(run)
    if path is not None:
        checkpoint.load_into(model, path)  # before it is wrapped: a wrapper may keep copies of the weights
    accelerator.gradient_accumulation_steps = config.accumulate
    optimizers = make_optimizers(model, config)
    wrapped, *stepped = accelerator.prepare(model, *optimizers)
    if accelerator.gradient_accumulation_steps != config.accumulate:  # a config of DeepSpeed may set it
        raise ValueError(
            f"accumulate={config.accumulate}, but the launcher's config says gradient_accumulation_steps="
            f"{accelerator.gradient_accumulation_steps}: give both the same number, or leave it out there"
        )
    ema = Ema(model, config.ema_decay)
    start = _resume(path, model, optimizers, ema, stream)
    if start.step >= config.steps:
        accelerator.print(f"already done: {run} is at step {start.step} of {config.steps}; raise --steps to go on")
        return
    trainable = [p for p in model.parameters() if p.requires_grad]
    batches = iter(stream)
    report = Report(run, accelerator, first_step=start.step + 1, last_step=config.steps, seconds=start.seconds)
    with report, Interrupts() as interrupts:
        report.say(f"{'resuming' if start.step else 'starting'} at step {start.step + 1} of {config.steps} in {run}")
        if start.warning is not None:
            report.say(f"warning: {start.warning}")
        wrapped.train()
        for step in range(start.step + 1, config.steps + 1):
            rate = set_learning_rate(optimizers, step, config)
            loss, metrics = _gradient(wrapped, batches, step, config, accelerator, report)
            norm = torch.as_tensor(accelerator.clip_grad_norm_(trainable, config.grad_clip))
            finite, interrupted = agree(accelerator, loss + norm, interrupts.received)
            if not finite:
                raise ValueError(describe_non_finite(run, step, {"loss": loss, "grad_norm": norm, **metrics}))
            for optimizer in stepped:
                optimizer.step()
                optimizer.zero_grad()
            ema.update(model, step)
            report.count(step)

            if every(step, config.log_every, last=config.steps):
                report.log({"loss": loss, **metrics, "grad_norm": norm, "learning_rate": rate})
            if evaluate is not None and every(step, evaluate_every, last=config.steps):
                with report.paused():
                    _evaluate(model, step, evaluate, ema, report, accelerator)
            if interrupted or every(step, config.save_every, last=config.steps):
                with report.paused():
                    state = {"seconds": report.seconds, "stream": stream.state_dict(), "seed": config.seed}
                    if accelerator.is_main_process:
                        checkpoint.save(
                            run,
                            step,
                            model=model,
                            ema=ema.weights,
                            optimizers=optimizers,
                            state=state,
                            keep=config.keep,
                        )
                    accelerator.wait_for_everyone()
            if interrupted and step < config.steps:
                report.say(f"stopped and saved at step {step}; run the same command again to go on")
                raise SystemExit(128 + interrupted)


def _gradient(
    wrapped: nn.Module,
    batches: Iterator[Clip],
    step: int,
    config: LoopConfig,
    accelerator: Accelerator,
    report: Report,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Leaves the gradient of a step in the parameters; gives the means of its batches' losses and metrics."""
    found: list[dict[str, Tensor]] = []
    first = 0
    for part in range(config.accumulate):
        with report.waiting():
            batch = next(batches).to(accelerator.device)
        count = batch.labeled.shape[0]
        mine = first + count * accelerator.process_index
        rows = Rows(config.seed, step, mine, count, accelerator.device, begins_step=not part)
        first += count * accelerator.num_processes
        with accelerator.accumulate(wrapped):  # ranks exchange gradients after the last part only
            loss, metrics = wrapped(batch, rows)
            accelerator.backward(loss)  # divides by the number of parts
        report.saw(batch.labeled.numel())
        found.append({"": loss.detach(), **metrics})
    means = found[0]
    if config.accumulate > 1:
        means = {name: torch.stack([part[name].detach().float() for part in found]).mean(0) for name in found[0]}
    return means.pop(""), means


def every(step: int, interval: int, *, last: int) -> bool:
    """Whether something that happens each `interval` steps (0: only at the end) happens at this one."""
    return step == last or (interval > 0 and step % interval == 0)


def set_learning_rate(optimizers: list[Optimizer], step: int, config: OptimizerConfig) -> float:
    rate = learning_rate(step, config)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
    return rate


def agree(accelerator: Accelerator, value: Tensor, signal: int) -> tuple[bool, int]:
    """Whether the value is finite on every rank, and the signal any rank received: all act on it in the same step."""
    mine = torch.stack([(~torch.isfinite(value)).float(), torch.tensor(float(signal), device=value.device)])
    bad, highest = (mine if accelerator.num_processes == 1 else accelerator.reduce(mine, reduction="max")).tolist()
    return not bad, int(highest)


def describe_non_finite(run: Path, step: int, metrics: Mapping[str, Tensor]) -> str:
    values = ", ".join(f"{name}={float(value.detach()):.4g}" for name, value in metrics.items())
    return (
        f"the loss or its gradient is not finite at step {step} ({values}); nothing was updated. "
        f"The last checkpoint is {checkpoint.latest(run)}: go on from it in a new run with a smaller --learning-rate"
    )


def _resume(path: Path | None, model: nn.Module, optimizers: list[Optimizer], ema: Ema, stream: Stream) -> Progress:
    if path is None:
        return Progress(step=0, seconds=0.0, warning=None)
    checkpoint.load_optimizers(model, optimizers, path)
    if ema.weights:
        ema.load(checkpoint.read_tensors(path / "ema.safetensors"))
    state = checkpoint.load_state(path)
    warning = stream.load_state_dict(state["stream"])
    return Progress(step=state["step"], seconds=state["seconds"], warning=warning)


def _evaluate(
    model: nn.Module,
    step: int,
    evaluate: Callable[[nn.Module, int], Mapping[str, float]],
    ema: Ema,
    report: Report,
    accelerator: Accelerator,
) -> None:
    """The main process alone evaluates, in eval mode and with the averaged weights; the others wait."""
    if accelerator.is_main_process:
        model.eval()
        with ema.applied(model):
            report.write(evaluate(model, step))
        model.train()
    accelerator.wait_for_everyone()
