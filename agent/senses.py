"""What the controller of World Models sees of an environment: V's z of the newest frame, and M's state before it.

Axes: b environments, f features [z | h | c].
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from agent.controller import Controller
from agent.envs.base import Arrival
from dynamics.mdn_rnn import MDNRNN, State
from tokenizer.autoencoder import to_float
from tokenizer.vae import VAE


class Senses:
    """One pass of V and one of M for all environments at each step; without M the features are z alone.

    z is V's mean, where the authors' code samples it: so a rollout that is played again earns the same.
    """

    def __init__(self, vae: VAE, mdn_rnn: MDNRNN | None) -> None:
        self.vae, self.mdn_rnn = vae, mdn_rnn
        self.device = next(vae.parameters()).device
        self._state: State | None = None
        self._z: Tensor | None = None
        self._is_first = torch.zeros(0, dtype=torch.bool)

    @property
    def num_features(self) -> int:
        states = 0 if self.mdn_rnn is None else 2 * self.mdn_rnn.config.hidden
        return self.vae.config.latent_dim + states

    @torch.no_grad()
    def observe(self, arrivals: Sequence[Arrival]) -> Float[Tensor, "b f"]:
        """Of what a step led to in each environment."""
        z = self._see(arrivals)
        if self.mdn_rnn is not None:
            assert self._z is not None and self._state is not None, "begin comes first"
            actions = torch.from_numpy(np.stack([a.action for a in arrivals])).to(self.device)
            self._state = self.mdn_rnn.step(self._state, self._z, actions, self._is_first)
            self._is_first = torch.zeros_like(self._is_first)
        self._z = z
        return self._features()

    @torch.no_grad()
    def begin(self, places: Sequence[int], arrivals: Sequence[Arrival], count: int) -> Float[Tensor, "_ f"]:
        """Of the first frames of episodes that begin in some of `count` environments, where M forgets what was."""
        if self._z is None:
            self._z = torch.zeros(count, self.vae.config.latent_dim, device=self.device)
            self._is_first = torch.zeros(count, dtype=torch.bool, device=self.device)
            self._state = None if self.mdn_rnn is None else self.mdn_rnn.start(count)
        self._z[places] = self._see(arrivals)
        self._is_first[places] = True
        for part in self._state or ():
            part[places] = 0
        return self._features()[places]

    def _see(self, arrivals: Sequence[Arrival]) -> Tensor:
        frames = torch.from_numpy(np.stack([a.frame for a in arrivals])).to(self.device)
        latents, _ = self.vae.encoder.step(to_float(frames).unsqueeze(1))
        return latents[:, 0, 0]

    def _features(self) -> Tensor:
        assert self._z is not None
        return torch.cat([self._z, *(self._state or ())], dim=-1)


class VMCPolicy:
    """V, M and C as a policy of the house."""

    def __init__(self, vae: VAE, mdn_rnn: MDNRNN | None, controller: Controller) -> None:
        self.vae, self.mdn_rnn, self.controller = vae, mdn_rnn, controller
        self.reset(0)

    def reset(self, seed: int) -> None:
        self._senses: Senses | None = None

    def act(self, arrivals: Sequence[Arrival]) -> NDArray[np.float32]:
        if self._senses is None:
            self._senses = Senses(self.vae, self.mdn_rnn)
            features = self._senses.begin(range(len(arrivals)), arrivals, len(arrivals))
        else:
            features = self._senses.observe(arrivals)
        rows: NDArray[np.float32] = self.controller(features).cpu().numpy()
        return rows
