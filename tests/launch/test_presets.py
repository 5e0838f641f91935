"""The presets of a size belong together: what one stage writes the next one reads."""

import pytest

from launch import encode_latents, evaluate_minecraft, train_agent, train_dynamics, train_imagination, train_tokenizer
from launch.import_vpt import PRESETS as IMPORTS
from launch.presets import MODELS


@pytest.mark.parametrize("name", ["base", "dreamer4"])
def test_every_stage_of_a_large_size_takes_up_the_one_before(name: str) -> None:
    models, imported = MODELS[name], IMPORTS[name]
    tokenizer, latents = train_tokenizer.PRESETS[name], encode_latents.PRESETS[name]
    dynamics, agent = train_dynamics.PRESETS[name], train_agent.PRESETS[name]
    imagination, judged = train_imagination.PRESETS[name], evaluate_minecraft.PRESETS[name]
    assert imported.size == tokenizer.model.frame_size == models.tokenizer.frame_size
    assert tokenizer.data == (str(imported.out / "train"),) and tokenizer.held_out == imported.out / "held_out"
    assert (latents.tokenizer, latents.data) == (tokenizer.run, imported.out)
    for stage in (dynamics, agent, imagination):
        assert stage.data == (str(latents.out / "train"),)
    assert (agent.dynamics, imagination.agent) == (dynamics.run, agent.run)
    assert (judged.tokenizer, judged.cloned, judged.imagined) == (tokenizer.run, agent.run, imagination.run)
    assert judged.data == imported.out / "train"
    assert dynamics.model == models.dynamics and dynamics.model.latent_shape == models.tokenizer.latent_shape
    assert (agent.model, imagination.model) == (models.agent, models.imagination)


def test_the_papers_size_trains_under_every_way_of_sharding_and_meets_contexts_without_a_start() -> None:
    for stage in (train_tokenizer.PRESETS["dreamer4"], train_dynamics.PRESETS["dreamer4"]):
        assert stage.loop.optimizer == "adamw" and stage.loop.activation_checkpointing
        assert (stage.length, stage.long_length) == (64, 256)
