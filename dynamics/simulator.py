"""The world as an environment: one KV cache of fixed size, K cheap passes and one commit pass a frame.

Play, evaluation, open-loop video and imagination all go through it. It also takes in real frames (`observe`), so that a
policy in the real environment sees exactly what it saw in training.

Axes: b worlds, t time, n latent tokens of a frame, d their channels, a the flat action row, s agent tokens, w width.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dynamics.shortcut import Grid, sample
from dynamics.world_model import WorldModel
from tokenizer.cache import Cache
from tokenizer.draws import Draws, normal
from tokenizer.records import LatentClip


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
        generator: Draws,
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
            seen = self._finished(self.model.standardise(context.latents), context.actions, context.labeled)
            agent_output, self._cache = self.model.prefill(*seen, self._tokens(context.latents.shape[1]))
            return agent_output

    def step(self, action: Float[Tensor, "b a"], labeled: Bool[Tensor, "b"] | None = None) -> Moment:
        """Generates the frame that the action leads to; one that is not labeled says nothing."""
        self._running()
        with self._grad():
            rows, known = action.unsqueeze(1), _known(action, labeled).unsqueeze(1)
            return self._commit(self._sample(self._noise(action), rows, known), rows, known)

    def dream(
        self, actions: Float[Tensor, "b t a"], labeled: Bool[Tensor, "b t"] | None = None
    ) -> tuple[Float[Tensor, "b t n d"], Float[Tensor, "b t s w"]]:
        """Generates the frames that known actions lead to; gives their latents and agent outputs.

        The same as `step` by `step`, but the commit of a frame and the first denoising pass of the next are one pass.
        """
        known, last = _known(actions, labeled), actions.shape[1] - 1
        frames, outputs = [], []
        with self._grad():
            noise, first = self._noise(actions[:, 0]), None
            for t in range(last + 1):
                clean = self._sample(noise, actions[:, t : t + 1], known[:, t : t + 1], first)
                frames.append(self.model.restore(clean))
                if t < last:
                    two = slice(t, t + 2)
                    noise, first, output = self._commit_and_begin(clean, actions[:, two], known[:, two])
                else:
                    output = self._commit(clean, actions[:, t:], known[:, t:]).agent_output.unsqueeze(1)
                outputs.append(output)
        return torch.cat(frames, dim=1), torch.cat(outputs, dim=1)

    def observe(
        self, latents: Float[Tensor, "b n d"], action: Float[Tensor, "b a"], labeled: Bool[Tensor, "b"] | None = None
    ) -> Moment:
        """Takes in a real frame and the action that led to it."""
        with self._grad():
            clean = self.model.standardise(latents.unsqueeze(1))
            return self._commit(clean, action.unsqueeze(1), _known(action, labeled).unsqueeze(1))

    def _noise(self, action: Tensor) -> Tensor:
        shape = (len(action), 1, *self.model.config.latent_shape)
        return normal(self.generator, shape)

    def _sample(self, noise: Tensor, rows: Tensor, known: Tensor, first: Tensor | None = None) -> Tensor:
        cache = self._running()

        def denoise(noisy: Tensor, level: Tensor, units: Tensor) -> Tensor:
            return self.model.step(noisy, Grid(level, units), rows, known, cache)[0]

        return sample(denoise, noise, self.num_steps, self.model.config.max_steps, first=first)

    def _commit(self, clean: Tensor, rows: Tensor, known: Tensor) -> Moment:
        seen = self._finished(clean, rows, known)
        _, output, self._cache = self.model.step(
            *seen, self._running(), self._tokens(1), write=1, in_place=not self.differentiable
        )
        return Moment(self.model.restore(clean).squeeze(1), output.squeeze(1))

    def _commit_and_begin(self, clean: Tensor, rows: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Commits a frame and takes the first denoising step of the next; `rows` are the actions that led to both.

        Gives the next frame's noise and first estimate, and the agent output of the committed frame.
        """
        finished, grid, *_ = self._finished(clean, rows[:, :1], known[:, :1])
        noise = self._noise(rows[:, 1])
        units = torch.full_like(grid.units, self.model.config.max_steps // self.num_steps)
        both = Grid(torch.cat([grid.level, torch.zeros_like(grid.level)], 1), torch.cat([grid.units, units], 1))
        estimate, output, self._cache = self.model.step(
            torch.cat([finished, noise], dim=1),
            both,
            rows,
            known,
            self._running(),
            self._tokens(2),
            write=1,
            in_place=not self.differentiable,
        )
        return noise, estimate[:, 1:], output[:, :1]

    def _finished(self, clean: Tensor, rows: Tensor, known: Tensor) -> tuple[Tensor, Grid, Tensor, Tensor]:
        """Frames as every context and commit pass sees them."""
        noisy = self.model.corrupt_context(clean, self.generator)
        return noisy, self.model.context_grid((clean.shape[0], clean.shape[1])), rows, known

    def _tokens(self, frames: int) -> Tensor | None:
        return None if self.agent_tokens is None else self.agent_tokens.unsqueeze(1).expand(-1, frames, -1, -1)

    def _running(self) -> Cache:
        if self._cache is None:
            raise ValueError("the simulator has no past yet: call reset(context) with at least one frame first")
        return self._cache

    def _grad(self) -> torch.autograd.grad_mode.set_grad_enabled:
        return torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled())


def _known(actions: Tensor, labeled: Tensor | None) -> Tensor:
    return torch.ones(actions.shape[:-1], dtype=torch.bool, device=actions.device) if labeled is None else labeled
