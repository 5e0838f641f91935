"""The one training loop: every model of this project trains here.

It knows this of a model: `model(batch, generator)` is its training loss, `(loss, metrics)`; where terms are normalised,
the metrics hold the raw "loss" that is logged in its place. `model.config`, if any, is the frozen dataclass it was made
from and goes into the checkpoint. All randomness of a step comes from `generator`, whose numbers are a
function of (seed, step, row), rows counted over all ranks: so a resumed run equals one that was never stopped, and two
processes with half the rows each learn what one with all of them learns, where the stream gives them the same rows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from launch import checkpoint
from launch.distributed import Precision, Tracker
from launch.ema import Ema
from launch.engine import Engine
from launch.engines import make_engine
from launch.interrupt import Interrupts
from launch.optimizers import OptimizerConfig, learning_rate
from launch.presets import Clips
from launch.report import Report
from launch.saver import Saver
from launch.utilisation import Utilisation
from tokenizer.draws import Rows
from tokenizer.records import Clip


@runtime_checkable
class Stream(Protocol):
    """Batches without end; its state counts the batches that were taken from it."""

    def __iter__(self) -> Iterator[Clip]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> str | None:
        """A sentence where it can go on, but not as a straight run would have."""


@runtime_checkable
class LearnsOnce(Protocol):
    """A model of which some parameters learn from the first update of each batch alone."""

    def learns_once(self) -> Iterator[nn.Parameter]: ...


@dataclass(frozen=True, kw_only=True)
class LoopConfig(OptimizerConfig):
    """In a command's config it is `loop: Annotated[LoopConfig, tyro.conf.arg(name="")]`, so that `--steps` sets it."""

    accumulate: int = 1
    """Batches whose gradients make up a step, in the memory of one: their mean, and so that of all their rows where the
    batches are of one size. Running scales of losses see each batch by itself."""
    updates: int = 1
    """Updates of the weights from each batch: more than one where it costs much to make of it what is learned from, as
    dreams do."""
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
    precision: Precision = "auto"
    """Of the forward pass; weights and optimizer are kept in 32 bits. auto: bf16 where the device multiplies in it."""
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
        for name in ("log_every", "save_every", "keep", "grad_clip", "accumulate", "updates"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if self.accumulate > 1 and self.updates > 1:
            raise ValueError(
                f"accumulate={self.accumulate} and updates={self.updates}: a step is either of several batches or "
                "several times of one"
            )
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
    path = agreed(checkpoint.latest(run))
    if path is not None:
        checkpoint.load_into(model, path)  # first: an engine may keep copies of the weights
    engine = make_engine(model, config, accelerator)
    ema = Ema(model, config.ema_decay)
    start = _resume(path, engine, ema, stream)
    if start.step >= config.steps:
        accelerator.print(f"already done: {run} is at step {start.step} of {config.steps}; raise --steps to go on")
        return
    batches = iter(stream)
    once = list(model.learns_once()) if isinstance(model, LearnsOnce) else []
    report = Report(
        run,
        accelerator,
        first_step=start.step + 1,
        last_step=config.steps,
        seconds=start.seconds,
        utilisation=Utilisation(
            getattr(model, "config", None), accelerator.device, config.precision, steps=config.steps - start.step
        ),
    )
    with report, Interrupts() as interrupts, Saver(run, config.keep) as saver:
        report.say(f"{'resuming' if start.step else 'starting'} at step {start.step + 1} of {config.steps} in {run}")
        if start.warning is not None:
            report.say(f"warning: {start.warning}")
        for step in range(start.step + 1, config.steps + 1):
            rate = learning_rate(step, config)
            engine.set_learning_rate(rate)
            parts: Iterable[Part] = _parts(accelerator, batches, step, config, report)
            told: dict[str, Tensor] = {}
            for number in range(config.updates):
                loss, metrics, parts = _gradient(engine, parts, config)
                norm = engine.clip(config.grad_clip)
                metrics = {"loss": loss, **metrics, "grad_norm": norm}
                finite, interrupted = agree(accelerator, loss + norm, interrupts.received)
                if not finite:
                    saver.finish()
                    raise ValueError(describe_non_finite(run, step, metrics))
                for parameter in once if number else ():
                    parameter.grad = None  # which an optimizer passes over
                engine.step()
                told = told or metrics  # of the first update: as of a batch that is new
            ema.update(model, step)
            report.count(step)

            if every(step, config.log_every, last=config.steps):
                report.log({**told, "learning_rate": rate})
            if evaluate is not None and every(step, evaluate_every, last=config.steps):
                with report.paused():
                    _evaluate(engine, step, evaluate, ema, report)
            if interrupted or every(step, config.save_every, last=config.steps):
                with report.paused():
                    saver.finish()  # before the next is copied: two of them at once may not fit into the memory
                    state = {"seconds": report.seconds, "stream": stream.state_dict(), "seed": config.seed}
                    saver.save(step, engine.snapshot(ema), state)
            saver.check()
            if interrupted and step < config.steps:
                saver.finish()
                accelerator.wait_for_everyone()  # a launcher may end all ranks with the first
                report.say(f"stopped and saved at step {step}; run the same command again to go on")
                raise SystemExit(128 + interrupted)


Part = tuple[Clip, Rows]
"""A batch of a step, and what it draws from."""


def _parts(
    accelerator: Accelerator, batches: Iterator[Clip], step: int, config: LoopConfig, report: Report
) -> Iterator[Part]:
    """The batches of a step, each taken from the stream when its turn comes."""
    first = 0
    for part in range(config.accumulate):
        with report.waiting():
            batch = next(batches).to(accelerator.device)
        count = batch.labeled.shape[0]
        mine = first + count * accelerator.process_index
        rows = Rows(config.seed, step, mine, count, accelerator.device, begins_step=not part)
        first += count * accelerator.num_processes
        report.saw(Clips(*batch.labeled.shape))
        yield batch, rows


def _gradient(
    engine: Engine, parts: Iterable[Part], config: LoopConfig
) -> tuple[Tensor, dict[str, Tensor], list[Part]]:
    """Leaves the gradient of an update with the engine; gives the means of its batches' losses and metrics, and what
    one more update is made of."""
    found: list[dict[str, Tensor]] = []
    again: list[Part] = []
    for part, (batch, rows) in enumerate(parts):
        loss, metrics = engine.learn(batch, rows, parts=config.accumulate, last=part + 1 == config.accumulate)
        found.append({"": loss.detach(), **metrics})
        if config.updates > 1:
            again.append((batch, rows.again()))
    means = found[0]
    if config.accumulate > 1:
        means = {name: torch.stack([part[name].detach().float() for part in found]).mean(0) for name in found[0]}
    return means.pop(""), means, again


def agreed(path: Path | None) -> Path | None:
    """The first rank's: another machine may not see the newest checkpoint yet."""
    chosen: list[Path | None] = broadcast_object_list([path])
    return chosen[0]


def every(step: int, interval: int, *, last: int) -> bool:
    """Whether something that happens each `interval` steps (0: only at the end) happens at this one."""
    return step == last or (interval > 0 and step % interval == 0)


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


def _resume(path: Path | None, engine: Engine, ema: Ema, stream: Stream) -> Progress:
    if path is None:
        return Progress(step=0, seconds=0.0, warning=None)
    remembered = checkpoint.read_optimizer(path)
    unknown = remembered.keys() - {name for name, p in engine.model.named_parameters() if p.requires_grad}
    if unknown:
        raise ValueError(f"{path} remembers the parameter {min(unknown)!r}, which no optimizer of this model has")
    engine.remember(remembered)
    if ema.weights:
        ema.load(engine.model, checkpoint.read_tensors(path / "ema.safetensors"))
    state = checkpoint.load_state(path)
    warning = stream.load_state_dict(state["stream"])
    return Progress(step=state["step"], seconds=state["seconds"], warning=warning)


def _evaluate(
    engine: Engine, step: int, evaluate: Callable[[nn.Module, int], Mapping[str, float]], ema: Ema, report: Report
) -> None:
    """The main process alone evaluates, in eval mode and with the averaged weights; the others wait."""
    with engine.averaged(ema) as model:
        if model is not None:
            model.eval()
            report.write(evaluate(model, step))
            model.train()
    engine.accelerator.wait_for_everyone()
