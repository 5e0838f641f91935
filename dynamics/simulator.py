"""The world as an environment: one KV cache of fixed size, K cheap passes and one commit pass a frame.

Play, evaluation, open-loop video and imagination all go through it. It also takes in real frames (`observe`), so that a
policy in the real environment sees exactly what it saw in training.

Axes: b worlds, t time, n latent tokens of a frame, d their channels, a the flat action row, s agent tokens, w width.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.shortcut import Grid, sample
from dynamics.world_model import WorldModel
from tokenizer.records import LatentClip
from tokenizer.transformer import Cache


class Moment(NamedTuple):
    """The newest frame of each world."""

    latents: Float[Tensor, "b n d"]
    """In the tokenizer's range."""
    agent_output: Float[Tensor, "b s w"]
    """s = 0 without agent tokens."""


class Simulator:
    """Batched worlds that go on from a context."""

    def __init__(
        self,
        model: WorldModel,
        *,
        agent_tokens: Float[Tensor, "b s w"] | None = None,
        num_steps: int | None = None,
        generator: torch.Generator,
        differentiable: bool = False,
    ) -> None:
        """`agent_tokens` are the agent's input in every frame. `num_steps` overrides the model's K.

        With `differentiable` nothing is written in place and gradients flow through steps and actions.
        """
        self.model = model
        self.agent_tokens = agent_tokens
        self.num_steps = model.config.num_steps if num_steps is None else num_steps
        self.generator = generator
        self.differentiable = differentiable
        self._cache: Cache | None = None

    def reset(self, context: LatentClip) -> Float[Tensor, "b t s w"]:
        """Takes in a context of at least one frame; gives the agent output of each of its frames."""
        with self._grad():
            clean = self.model.standardise(context.latents)
            slots = self._commit_slots(clean, context.actions, context.labeled)
            out, self._cache = self.model.transformer.prefill(slots, self.model.space_mask(slots.shape[2]))
            return self.model.read(out)[1]

    def step(self, action: Float[Tensor, "b a"]) -> Moment:
        """Generates the frame that the action leads to."""
        cache = self._running()
        with self._grad():
            rows, labeled = action.unsqueeze(1), torch.ones_like(action[:, :1], dtype=torch.bool)

            def denoise(noisy: Tensor, level: Tensor, units: Tensor) -> Tensor:
                slots = self.model.slots(noisy, Grid(level, units), rows, labeled)
                return self.model.read(self.model.transformer.step(slots, None, cache, write=False)[0])[0]

            shape = (len(action), 1, *self.model.config.latent_shape)
            noise = torch.randn(shape, generator=self.generator, device=action.device)
            clean = sample(denoise, noise, self.num_steps, self.model.config.max_steps)
            return self._commit(clean, rows, labeled)

    def dream(self, actions: Float[Tensor, "b t a"]) -> tuple[Float[Tensor, "b t n d"], Float[Tensor, "b t s w"]]:
        """Generates the frames that known actions lead to; gives their latents and agent outputs."""
        moments = [self.step(action) for action in actions.unbind(1)]
        return torch.stack([m.latents for m in moments], 1), torch.stack([m.agent_output for m in moments], 1)

    def observe(
        self, latents: Float[Tensor, "b n d"], action: Float[Tensor, "b a"], labeled: Tensor | None = None
    ) -> Moment:
        """Takes in a real frame and the action that led to it."""
        self._running()
        with self._grad():
            known = torch.ones(len(action), dtype=torch.bool, device=action.device) if labeled is None else labeled
            return self._commit(self.model.standardise(latents.unsqueeze(1)), action.unsqueeze(1), known.unsqueeze(1))

    def _commit(self, clean: Tensor, rows: Tensor, labeled: Tensor) -> Moment:
        slots = self._commit_slots(clean, rows, labeled)
        out, self._cache = self.model.transformer.step(
            slots, self.model.space_mask(slots.shape[2]), self._running(), write=True, in_place=not self.differentiable
        )
        return Moment(self.model.restore(clean).squeeze(1), self.model.read(out)[1].squeeze(1))

    def _commit_slots(self, clean: Tensor, rows: Tensor, labeled: Tensor) -> Tensor:
        noisy = self.model.corrupt_context(clean, self.generator)
        tokens = self.agent_tokens
        if tokens is not None:
            tokens = tokens.unsqueeze(1).expand(-1, clean.shape[1], -1, -1)
        return self.model.slots(noisy, self.model.context_grid((clean.shape[0], clean.shape[1])), rows, labeled, tokens)

    def _running(self) -> Cache:
        if self._cache is None:
            raise ValueError("the simulator has no past yet: call reset(context) with at least one frame first")
        return self._cache

    def _grad(self) -> torch.autograd.grad_mode.set_grad_enabled:
        return torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled())
