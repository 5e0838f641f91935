"""The dynamics: a block-causal transformer that denoises latents given the past and the actions (Dreamer 4, sec. 3.2).

Slots of a frame, in order: action, (tau, d), latents, registers, agent tokens. The block of frame t holds the action
that led to it. Agent tokens see everything and nothing sees them, so they can be left out where only latents are
wanted.

Axes: b batch, t time, n latent tokens of a frame, d their channels, s agent tokens, w width.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dynamics.actions import ActionEmbedding, ActionSpace
from dynamics.shortcut import (
    Grid,
    bootstrap_target,
    corrupt,
    draw_grid,
    from_velocity,
    ramp_weight,
    shortcut_error,
    velocity_weight,
)
from tokenizer.cache import Cache, Past
from tokenizer.draws import Draws, begins_step, normal, of_rows, split_rows
from tokenizer.losses import mean_where
from tokenizer.records import LatentClip
from tokenizer.transformer import SpaceTimeTransformer, TransformerConfig, divisors


@dataclass(frozen=True, kw_only=True)
class DynamicsConfig:
    latent_shape: tuple[int, int] = (16, 32)
    """(tokens, channels) of a frame; the commands take it from the data."""
    actions: ActionSpace = field(default_factory=lambda: ActionSpace(continuous=("action",)))
    """The commands take it from the data."""
    tokenizer: str = ""
    """Fingerprint of the tokenizer whose latents this model knows; the commands take it from the data."""
    transformer: TransformerConfig = TransformerConfig()
    num_registers: int = 4
    max_steps: int = 64
    """K_max: the finest grid of signal levels."""
    num_steps: int = 4
    """K: denoising passes of a generated frame."""
    context_level: int = 58
    """Signal level, in 1/max_steps, at which finished frames are fed."""
    objective: Literal["shortcut", "diffusion"] = "shortcut"
    """Shortcut forcing, or plain diffusion forcing: the flow loss alone, with no step size told to the model."""
    prediction: Literal["x", "v"] = "x"
    """What the output is: clean latents, or velocities z1 - z0."""
    loss_space: Literal["x", "v"] = "x"
    """Where errors are measured: between clean latents, or between velocities."""
    ramp: bool = True
    """Whether noisy frames say less in the loss (eq. 8)."""
    bootstrap_share: float = 0.25
    """Share of rows that learn large steps; the others learn the flow."""
    bootstrap_warmup: int = 0
    """Training steps before the first bootstrap rows: a teacher that knows nothing yet teaches nothing."""
    image_share: float = 0.0
    """Share of rows trained as separate images, with no attention over time (0.3 in the paper)."""
    num_tokens: int | None = None
    """Latent tokens of a frame inside the model, N_z: the channels of the data's tokens are joined or split to get it.
    The data's own number where not given."""

    def __post_init__(self) -> None:
        if self.max_steps & (self.max_steps - 1) or self.max_steps < 2:
            raise ValueError(f"max_steps={self.max_steps} is not a power of two")
        if not 0 < self.context_level <= self.max_steps:
            raise ValueError(f"context_level={self.context_level} is not in 1..max_steps={self.max_steps}")
        if self.num_steps < 1 or self.max_steps % self.num_steps:
            raise ValueError(f"num_steps={self.num_steps} does not divide max_steps={self.max_steps}")
        for name in ("bootstrap_share", "image_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is not in [0, 1]")
        if self.bootstrap_warmup < 0:
            raise ValueError(f"bootstrap_warmup={self.bootstrap_warmup} must not be negative")
        if self.transformer.dim % 2:
            raise ValueError(f"width {self.transformer.dim} does not split between signal level and step size")

    def check_num_tokens(self) -> None:
        """Raises ValueError where the latents do not split into the model's tokens: not before their shape is known."""
        size = self.latent_shape[0] * self.latent_shape[1]
        if self.num_tokens is not None and (self.num_tokens < 1 or size % self.num_tokens):
            raise ValueError(
                f"num_tokens={self.num_tokens} does not divide the {size} numbers of a frame's latents: "
                f"choose from {divisors(size)}"
            )

    @property
    def token_shape(self) -> tuple[int, int]:
        """(tokens, channels) of a frame inside the model."""
        tokens, channels = self.latent_shape
        count = self.num_tokens or tokens
        return count, tokens * channels // count

    @property
    def world_slots(self) -> int:
        """Slots of a frame without agent tokens."""
        return 2 + self.token_shape[0] + self.num_registers


class WorldModel(nn.Module):
    """Predicts clean latents from noisy ones, with its own standardisation of the tokenizer's latents inside."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        config.check_num_tokens()
        self.config = config
        (tokens, channels), width = config.token_shape, config.transformer.dim
        self.action_embed = ActionEmbedding(config.actions, width)
        self.level_embed = nn.Embedding(config.max_steps + 1, width // 2)
        self.step_embed = nn.Embedding(config.max_steps.bit_length(), width // 2)
        self.latent_in = nn.Linear(channels, width)
        self.latent_embed = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.register_embed = nn.Parameter(torch.randn(config.num_registers, width) * 0.02)
        self.transformer = SpaceTimeTransformer(config.transformer)
        self.latent_head = nn.Linear(width, channels)
        for embed in (self.level_embed, self.step_embed):
            nn.init.normal_(embed.weight, std=0.02)
        nn.init.zeros_(self.latent_head.weight)
        nn.init.zeros_(self.latent_head.bias)
        self.register_buffer("latent_mean", torch.zeros(config.latent_shape))
        self.register_buffer("latent_std", torch.ones(config.latent_shape))
        self.register_buffer("steps_seen", torch.tensor(0))
        self._warm = config.bootstrap_warmup == 0

    steps_seen: Tensor
    """Training steps, counted until the bootstrap begins."""
    latent_mean: Tensor
    latent_std: Tensor

    @torch.no_grad()
    def fit_standardisation(self, latents: Float[Tensor, "b t n d"]) -> None:
        """Sets mean and spread of every latent channel from a sample of the data."""
        flat = latents.float().flatten(0, 1)
        self.latent_mean.copy_(flat.mean(0))
        self.latent_std.copy_(flat.std(0).clamp_min(1e-3))

    def standardise(self, latents: Float[Tensor, "b t n d"]) -> Float[Tensor, "b t n d"]:
        return (latents.float() - self.latent_mean) / self.latent_std

    def restore(self, latents: Float[Tensor, "b t n d"]) -> Float[Tensor, "b t n d"]:
        """Standardised latents back to the tokenizer's range (-1, 1)."""
        return (latents.float() * self.latent_std + self.latent_mean).clamp(-1, 1)

    def forward(self, batch: LatentClip, generator: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Shortcut forcing loss (eq. 7) of a batch. Some rows are bootstrap rows, which are put first, some images.

        Where a clip goes on with another episode, nothing is learned of that one."""
        count = batch.latents.shape[0]
        share = self.bootstrap_share(begins_step(generator))
        bootstrap, images, others = split_rows(generator, count, share, self.config.image_share)
        order, rows = [*bootstrap, *others, *images], len(bootstrap)
        batch, generator = batch[order], of_rows(generator, order)
        clean = self.standardise(batch.latents)
        grid = draw_grid((count, clean.shape[1]), rows, self.config.max_steps, generator)
        noise = normal(generator, clean.shape)
        noisy = corrupt(clean, noise, grid.level, self.config.max_steps)
        target = noisy[:rows]
        if share:  # also for no rows: where ranks hold parts of the weights, all of them must make the same passes
            target = self.targets(target, Grid(grid.level[:rows], grid.units[:rows]), batch[:rows])
        stills = len(images) if self.config.image_share else None
        estimate, _ = self.denoise(noisy, grid, batch.actions, batch.labeled, images=stills)
        return self.loss(estimate, clean, target, grid, batch.episode == 0)

    def bootstrap_share(self, begins: bool = True) -> float:
        """Of the rows of this step; in training, counts the step where it begins."""
        if self.config.objective == "diffusion":
            return 0.0
        if begins and not self._warm and self.training:
            self.steps_seen += 1
            self._warm = bool(self.steps_seen > self.config.bootstrap_warmup)
        return self.config.bootstrap_share if self._warm else 0.0

    @torch.no_grad()
    def targets(self, noisy: Float[Tensor, "r t n d"], grid: Grid, batch: LatentClip) -> Float[Tensor, "r t n d"]:
        """Bootstrap targets; the teacher must not learn from its own student."""

        def teacher(noisy: Tensor, level: Tensor, units: Tensor) -> Tensor:
            return self.denoise(noisy, Grid(level, units), batch.actions, batch.labeled)[0].float()

        return bootstrap_target(teacher, noisy, grid, self.config.max_steps)

    def loss(
        self, estimate: Tensor, clean: Tensor, target: Tensor, grid: Grid, counts: Bool[Tensor, "b t"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted mean over the frames that count, and the errors of both kinds of them."""
        error = shortcut_error(estimate, clean, target, grid)
        weighted = error
        if self.config.ramp:
            weighted = ramp_weight(grid.level, self.config.max_steps) * weighted
        if self.config.loss_space == "v":
            weighted = velocity_weight(grid.level, self.config.max_steps) * weighted
        loss = mean_where(weighted, counts)
        at_finest, seen = grid.units == 1, error.detach()
        flow, bootstrap = mean_where(seen, counts & at_finest), mean_where(seen, counts & ~at_finest)
        return loss, {"video_loss": loss.detach(), "flow_error": flow, "bootstrap_error": bootstrap}

    def denoise(
        self,
        noisy: Float[Tensor, "b t n d"],
        grid: Grid,
        actions: Float[Tensor, "b t a"],
        labeled: Bool[Tensor, "b t"],
        agent_tokens: Float[Tensor, "b t s w"] | None = None,
        images: int | None = None,
    ) -> tuple[Float[Tensor, "b t n d"], Float[Tensor, "b t s w"]]:
        """Estimates of the clean standardised latents, and the output of the agent tokens (s = 0 without them).

        The last `images` rows are taken as separate images.
        """
        slots = self.slots(noisy, grid, actions, labeled, agent_tokens)
        out = self.transformer(slots, self.config.world_slots, images)
        return self.read(out, noisy, grid)

    def prefill(
        self,
        noisy: Float[Tensor, "b t n d"],
        grid: Grid,
        actions: Float[Tensor, "b t a"],
        labeled: Bool[Tensor, "b t"],
        agent_tokens: Float[Tensor, "b t s w"] | None = None,
    ) -> tuple[Float[Tensor, "b t s w"], Cache]:
        """The agent output of a whole context, and the cache that goes on from it."""
        slots = self.slots(noisy, grid, actions, labeled, agent_tokens)
        out, cache = self.transformer.prefill(slots, self.config.world_slots)
        return out[:, :, self.config.world_slots :], cache

    def step(
        self,
        noisy: Float[Tensor, "b f n d"],
        grid: Grid,
        actions: Float[Tensor, "b f a"],
        labeled: Bool[Tensor, "b f"],
        cache: Cache,
        agent_tokens: Float[Tensor, "b f s w"] | None = None,
        *,
        write: int = 0,
        in_place: bool = False,
    ) -> tuple[Float[Tensor, "b f n d"], Float[Tensor, "b f s w"], Cache]:
        """`denoise` for the frames after those in the cache; the first `write` of them are added to it."""
        inner, num_agent = self.config.world_slots, 0 if agent_tokens is None else agent_tokens.shape[2]
        past = self.transformer.past(cache, noisy.shape[1], inner + num_agent, inner)
        estimate, agent_output, new = self._pass_over(noisy, grid, actions, labeled, agent_tokens, past)
        return estimate, agent_output, self.transformer.write(cache, new, write, in_place=in_place)

    def _pass_over(
        self,
        noisy: Tensor,
        grid: Grid,
        actions: Tensor,
        labeled: Tensor,
        agent_tokens: Tensor | None,
        past: Past,
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """From latents to estimates, and the keys and values of the new frames."""
        slots = self.slots(noisy, grid, actions, labeled, agent_tokens)
        out, new = self.transformer.pass_over(slots, self.config.world_slots, past)
        return *self.read(out, noisy, grid), new

    def slots(
        self,
        noisy: Float[Tensor, "b t n d"],
        grid: Grid,
        actions: Float[Tensor, "b t a"],
        labeled: Bool[Tensor, "b t"],
        agent_tokens: Float[Tensor, "b t s w"] | None = None,
    ) -> Float[Tensor, "b t slots w"]:
        """The embedded slots of each frame, in the order of the layout."""
        units = torch.ones_like(grid.units) if self.config.objective == "diffusion" else grid.units
        level = torch.cat([self.level_embed(grid.level), self.step_embed(units.log2().round().long())], dim=-1)
        tokens = noisy.to(self.latent_in.weight.dtype).flatten(2).unflatten(2, self.config.token_shape)
        latents = self.latent_in(tokens) + self.latent_embed
        parts = [
            self.action_embed(actions.to(self.latent_embed.dtype), labeled).unsqueeze(2),
            level.unsqueeze(2),
            latents,
            self.register_embed.expand(*noisy.shape[:2], -1, -1),
        ]
        if agent_tokens is not None:
            parts.append(agent_tokens)
        return torch.cat([part.to(latents.dtype) for part in parts], dim=2)

    def read(
        self, out: Float[Tensor, "b t slots w"], noisy: Float[Tensor, "b t n d"], grid: Grid
    ) -> tuple[Float[Tensor, "b t n d"], Float[Tensor, "b t s w"]]:
        """Estimates of the clean latents, whatever the network predicts, and the agent tokens' output."""
        latents = self.latent_head(out[:, :, 2 : 2 + self.config.token_shape[0]]).float()
        estimate = latents.flatten(2).unflatten(2, self.config.latent_shape)
        if self.config.prediction == "v":
            estimate = from_velocity(noisy.float(), estimate, grid.level, self.config.max_steps)
        return estimate, out[:, :, self.config.world_slots :]

    def context_grid(self, shape: tuple[int, int]) -> Grid:
        """(tau, d) of finished frames: slightly noisy, finest step."""
        level: Int[Tensor, "b t"] = torch.full(shape, self.config.context_level, device=self.latent_mean.device)
        return Grid(level, torch.ones_like(level))

    def corrupt_context(self, clean: Float[Tensor, "b t n d"], generator: Draws) -> Float[Tensor, "b t n d"]:
        """Standardised latents as every context and commit pass sees them."""
        noise = normal(generator, clean.shape)
        grid = self.context_grid((clean.shape[0], clean.shape[1]))
        return corrupt(clean, noise, grid.level, self.config.max_steps)

    def compile_layers(self) -> None:
        self.transformer.compile_layers()

    def checkpoint_activations(self) -> None:
        self.transformer.checkpoint_activations()
