"""The cascade of design choices of Dreamer 4, rung by rung, as values of one training config.

The first rung is plain diffusion forcing; each of the others brings one part of the finished design to the rung before
it. What a part looks like (so many key-value heads, so long a clip) is read from the finished design.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

from launch.train_dynamics import TrainDynamics


class Paper(NamedTuple):
    """What Dreamer 4 reports of a rung: on other data, of a far larger model, with the features of another network."""

    fvd: int
    train_step_s: float | None = None
    frames_per_s: float | None = None
    """Generated on one H100."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    name: str
    change: str
    """Against the rung before it."""
    fields: tuple[str, ...] = ()
    """Of the training, dotted: from here on they are what they are in the finished design."""
    latents: Fraction | None = None
    """Latent tokens of a frame inside the model from here on, in those of the data; as before where not given."""
    trains: bool = True
    """Whether a model is trained for it; else it is that of the rung before it, sampled otherwise."""
    paper: Paper


CASCADE = (
    Rung(
        name="diffusion_forcing",
        change="Diffusion forcing of velocities: dense attention over time in every layer, long clips alone, half of "
        "the data's latent tokens, no registers, sampled with the finest steps.",
        latents=Fraction(1, 2),
        paper=Paper(306, 9.8, 0.8),
    ),
    Rung(
        name="few_steps",
        change="The same model, sampled with few steps.",
        fields=("model.num_steps",),
        trains=False,
        paper=Paper(875, 9.8, 9.1),
    ),
    Rung(
        name="shortcut",
        change="Shortcut forcing: the model knows its step size and learns large steps from itself.",
        fields=("model.objective",),
        paper=Paper(329),
    ),
    Rung(
        name="x_prediction",
        change="The model predicts clean latents, not velocities.",
        fields=("model.prediction",),
        paper=Paper(326),
    ),
    Rung(
        name="x_loss",
        change="Errors are measured between clean latents, not between velocities.",
        fields=("model.loss_space",),
        paper=Paper(151),
    ),
    Rung(name="ramp", change="Noisy frames say less in the loss.", fields=("model.ramp",), paper=Paper(102)),
    Rung(
        name="alternating_lengths",
        change="Short clips, and long ones in a share of the steps only.",
        fields=("length", "batch_size", "long_length"),
        paper=Paper(80, 1.5, 9.1),
    ),
    Rung(
        name="time_every_4",
        change="Attention over time in every fourth layer, over space in the others.",
        fields=("model.transformer.time_every",),
        paper=Paper(70, 0.6, 18.9),
    ),
    Rung(
        name="gqa",
        change="Grouped queries: fewer key-value heads.",
        fields=("model.transformer.num_kv_heads",),
        paper=Paper(71, 0.5, 23.2),
    ),
    Rung(
        name="factorised",
        change="Over time a slot attends to itself alone.",
        fields=("model.transformer.time_attention",),
        paper=Paper(91, 0.4, 30.1),
    ),
    Rung(name="registers", change="Register tokens.", fields=("model.num_registers",), paper=Paper(91, 0.5, 28.9)),
    Rung(
        name="more_latents",
        change="As many latent tokens inside the model as the data has.",
        latents=Fraction(1),
        paper=Paper(66, 0.8, 25.7),
    ),
    Rung(
        name="twice_the_latents",
        change="Twice as many latent tokens inside the model, of half as many channels.",
        latents=Fraction(2),
        paper=Paper(57, 1.7, 21.4),
    ),
)


class Trained(NamedTuple):
    """A model that is trained, once with each seed."""

    name: str
    """Of the rung that it is trained for."""
    training: TrainDynamics
    """Its folder and its seed are each training's own."""


class Step(NamedTuple):
    """A rung as it is run."""

    rung: Rung
    training: TrainDynamics
    """What the cascade has come to."""
    model: Trained
    """Whose dreams are judged: the rung's own model, or that of the rung before."""

    @property
    def num_steps(self) -> int:
        """K: denoising passes of a generated frame."""
        return self.training.model.num_steps


def climb(design: TrainDynamics, names: tuple[str, ...]) -> list[Step]:
    """The rungs of these names in the cascade's order; the model of `design` knows the shape of its data's latents.

    Raises ValueError where a rung cannot be made of these latents.
    """
    last = max(number for number, rung in enumerate(CASCADE) if rung.name in names)
    training = _plain(design)
    model, steps = Trained("", training), []
    for rung in CASCADE[: last + 1]:
        training = _climbed(training, rung, design)
        model = Trained(rung.name, training) if rung.trains else model
        if rung.name in names:
            steps.append(Step(rung, training, model))
    return steps


def trials(steps: Sequence[Step]) -> list[tuple[Trained, list[int]]]:
    """Each model with the numbers of denoising steps that it is judged with: the last one with the finest, too."""
    found: dict[str, tuple[Trained, list[int]]] = {}
    for step in steps:
        found.setdefault(step.model.name, (step.model, []))[1].append(step.num_steps)
    model, num_steps = found[steps[-1].model.name]
    if model.training.model.max_steps not in num_steps:
        num_steps.append(model.training.model.max_steps)
    return list(found.values())


def _plain(design: TrainDynamics) -> TrainDynamics:
    """What the first rung begins with: none of the parts that are brought in one by one."""
    transformer = design.model.transformer
    assert design.long_length is not None
    return replace(
        design,
        length=design.long_length,
        batch_size=design.long_rows,
        long_length=None,
        model=replace(
            design.model,
            objective="diffusion",
            prediction="v",
            loss_space="v",
            ramp=False,
            num_steps=design.model.max_steps,
            num_registers=0,
            transformer=replace(transformer, time_attention="dense", time_every=1, num_kv_heads=transformer.num_heads),
        ),
    )


def _climbed(training: TrainDynamics, rung: Rung, design: TrainDynamics) -> TrainDynamics:
    for field in rung.fields:
        training = _with(training, field, _value(design, field))
    if rung.latents is None:
        return training
    tokens, channels = design.model.latent_shape
    wanted = rung.latents * tokens
    if wanted.denominator != 1 or tokens * channels % wanted.numerator:
        raise ValueError(
            f"rung {rung.name!r} wants {float(rung.latents):g} times the data's {tokens} latent tokens of {channels} "
            "channels, which does not divide them: leave it out, or encode the data into another number of tokens"
        )
    split: TrainDynamics = _with(training, "model.num_tokens", wanted.numerator)
    return split


def _value(config: Any, field: str) -> Any:
    """Of a dotted field."""
    for name in field.split("."):
        config = getattr(config, name)
    return config


def _with(config: Any, field: str, value: Any) -> Any:
    """The config with another value of a dotted field."""
    name, _, rest = field.partition(".")
    return replace(config, **{name: _with(getattr(config, name), rest, value) if rest else value})
