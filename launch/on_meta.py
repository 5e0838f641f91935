"""Models that exist in shape only: their losses run on the meta device and cost nothing, whatever the size.

They are in evaluation mode, since the losses' running scales would ask for the loss's value. Two parts of no matrix
products are left out: soft-capping, whose kernel knows no meta device, and the perceptual loss.
"""

from dataclasses import replace

import torch
from torch import Tensor

from agent.agent import Agent, AgentConfig
from dynamics.world_model import DynamicsConfig, WorldModel
from launch.flops import Counts, count_matmuls
from launch.presets import Clips
from launch.random_clips import random_clips
from tokenizer.autoencoder import Tokenizer, TokenizerConfig
from tokenizer.transformer import TransformerConfig

META = torch.device("meta")


class MetaGenerator(torch.Generator):
    """Draws for tensors on the meta device, which has no generator of its own."""

    device = META


Model = Tokenizer | WorldModel | Agent


def on_meta(config: TokenizerConfig | DynamicsConfig | AgentConfig) -> Model:
    """The model of this config."""
    if isinstance(config, AgentConfig):
        return agent_on_meta(config, world_on_meta(config.dynamics))
    return tokenizer_on_meta(config) if isinstance(config, TokenizerConfig) else world_on_meta(config)


def tokenizer_on_meta(config: TokenizerConfig) -> Tokenizer:
    encoder, decoder = _uncapped(config.encoder), _uncapped(config.decoder)
    with META:
        return Tokenizer(replace(config, encoder=encoder, decoder=decoder, perceptual_weight=0.0)).eval()


def world_on_meta(config: DynamicsConfig) -> WorldModel:
    with META:
        return WorldModel(uncapped_dynamics(config)).eval()


def agent_on_meta(config: AgentConfig, world: WorldModel) -> Agent:
    """In a world model that is there already."""
    with META:
        return Agent(replace(config, dynamics=world.config), world).eval()


def uncapped_dynamics(config: DynamicsConfig) -> DynamicsConfig:
    return replace(config, transformer=_uncapped(config.transformer))


def _uncapped(config: TransformerConfig) -> TransformerConfig:
    return replace(config, soft_cap=None)


def loss_on_meta(model: Model, clips: Clips) -> Tensor:
    config = model.config.dynamics if isinstance(model, Agent) else model.config
    loss: Tensor = model(random_clips(config, clips, META), MetaGenerator())[0]
    return loss


def step_products(model: Model, clips: Clips) -> Counts:
    """The matrix products of a training step's forward and backward passes."""
    return count_matmuls(lambda: loss_on_meta(model, clips).backward())
