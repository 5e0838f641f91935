"""The cascade: each rung changes what its name says and nothing else, from plain diffusion forcing to the design."""

from dataclasses import replace
from typing import Any

import pytest

from dynamics.world_model import DynamicsConfig
from launch.ablate import PRESETS, RUNGS
from launch.ablation_report import few_step_sentence, spread, student_quantile, summarise
from launch.ablation_rungs import CASCADE, Step, climb, trials
from launch.serial import flat, to_json
from launch.train_dynamics import TrainDynamics

CHANGES: dict[str, dict[str, Any]] = {
    "few_steps": {"model.num_steps": 4},
    "shortcut": {"model.objective": "shortcut"},
    "x_prediction": {"model.prediction": "x"},
    "x_loss": {"model.loss_space": "x"},
    "ramp": {"model.ramp": True},
    "alternating_lengths": {"length": 12, "batch_size": 8, "long_length": 24},
    "time_every_4": {"model.transformer.time_every": 4},
    "gqa": {"model.transformer.num_kv_heads": 1},
    "factorised": {"model.transformer.time_attention": "factorised"},
    "registers": {"model.num_registers": 4},
    "more_latents": {"model.num_tokens": 16},
    "twice_the_latents": {"model.num_tokens": 32},
}


def designed(tokens: int = 16, channels: int = 32) -> TrainDynamics:
    training = PRESETS["laptop"].training
    return replace(training, model=replace(training.model, latent_shape=(tokens, channels)))


@pytest.fixture
def steps() -> list[Step]:
    return climb(designed(), RUNGS)


def test_the_first_rung_is_plain_diffusion_forcing_on_long_clips(steps: list[Step]) -> None:
    training, model = steps[0].training, steps[0].training.model
    assert (model.objective, model.prediction, model.loss_space, model.ramp) == ("diffusion", "v", "v", False)
    assert (model.num_registers, model.num_tokens, model.num_steps) == (0, 8, model.max_steps)
    transformer = model.transformer
    assert (transformer.time_attention, transformer.time_every) == ("dense", 1)
    assert transformer.num_kv_heads == transformer.num_heads > 1
    assert training.long_length is None and training.length == 24 > transformer.window


def test_each_rung_changes_the_named_fields_of_the_one_before_and_no_other(steps: list[Step]) -> None:
    configs = [flat(to_json(step.training)) for step in steps]
    found = {
        step.rung.name: {name: value for name, value in after.items() if value != before[name]}
        for step, before, after in zip(steps[1:], configs, configs[1:], strict=False)
    }
    assert found == CHANGES and list(found) == list(CHANGES)


def test_the_last_rung_is_the_design_but_for_its_latent_tokens(steps: list[Step]) -> None:
    assert replace(steps[-1].training, model=replace(steps[-1].training.model, num_tokens=None)) == designed()
    mine, usual = steps[-1].training.model, DynamicsConfig()
    for name in ("objective", "prediction", "loss_space", "ramp", "num_registers", "num_steps", "bootstrap_share"):
        assert getattr(mine, name) == getattr(usual, name), name
    for name in ("time_every", "time_attention"):
        assert getattr(mine.transformer, name) == getattr(usual.transformer, name), name


def test_all_steps_learn_from_the_same_number_of_frames(steps: list[Step]) -> None:
    for preset in PRESETS.values():
        training = preset.training
        assert training.long_length is not None
        assert training.batch_size * training.length == training.long_rows * training.long_length
    assert {step.training.batch_size * step.training.length for step in steps} == {96}


def test_few_steps_has_no_training_of_its_own(steps: list[Step]) -> None:
    assert steps[1].model == steps[0].model and steps[1].model.training == steps[0].training
    assert [step.model.name for step in steps] == [
        "diffusion_forcing",
        *(name for name in RUNGS if name != "few_steps"),
    ]
    (alone,) = climb(designed(), ("few_steps",))
    assert alone == steps[1]


def test_a_rung_is_the_same_whether_those_before_it_are_run_or_not(steps: list[Step]) -> None:
    chosen = climb(designed(), ("gqa", "shortcut"))
    assert chosen == [step for step in steps if step.rung.name in ("shortcut", "gqa")]


def test_the_first_and_the_last_model_are_judged_with_the_finest_steps_too(steps: list[Step]) -> None:
    found = {model.name: num_steps for model, num_steps in trials(steps)}
    assert found.pop("diffusion_forcing") == [64, 4] and found.pop("twice_the_latents") == [4, 64]
    assert len(found) == 10 and all(num_steps == [4] for num_steps in found.values())
    assert [num_steps for _, num_steps in trials(steps[:2])] == [[64, 4]]


def test_what_the_paper_reports_stands_beside_each_rung() -> None:
    assert [rung.paper.fvd for rung in CASCADE] == [306, 875, 329, 326, 151, 102, 80, 70, 71, 91, 91, 66, 57]
    assert CASCADE[0].paper.train_step_s == 9.8 and CASCADE[-1].paper.frames_per_s == 21.4


@pytest.mark.parametrize(
    ("shape", "rung"),
    [((15, 32), "'diffusion_forcing' wants 0.5 times"), ((16, 3), "'twice_the_latents' wants 2 times")],
)
def test_latents_that_do_not_divide_are_refused_with_the_rung(shape: tuple[int, int], rung: str) -> None:
    with pytest.raises(ValueError, match=f"rung {rung} the data's {shape[0]} latent tokens .* leave it out"):
        climb(designed(*shape), RUNGS)


def test_data_that_cannot_be_split_further_still_has_the_other_rungs() -> None:
    assert climb(designed(16, 3), RUNGS[:-1])[-1].training.model.token_shape == (16, 3)


def test_intervals_over_few_seeds_are_students() -> None:
    for freedom, quantile in {1: 12.706, 2: 4.303, 3: 3.182, 10: 2.228, 1000: 1.962}.items():
        assert student_quantile(freedom) == pytest.approx(quantile, abs=1e-3)
    found = spread([1.0, 2.0, 3.0])
    assert found is not None and found["mean"] == 2 and found["values"] == [1, 2, 3]
    assert found["ci95"] == pytest.approx([2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5], abs=1e-3)
    assert spread([5.0]) == {"mean": 5.0, "ci95": None, "values": [5.0]}
    assert spread([]) is None and spread([None, None]) is None


def judged(**distances: list[float]) -> dict[tuple[str, int], dict[int, dict[str, float]]]:
    """FVD-lite0 of each seed, under model_K."""
    found = {}
    for name, values in distances.items():
        model, _, num_steps = name.rpartition("_")
        rows = {seed: {"fvd_lite0": value, "psnr": 20.0, "margin": 1.0} for seed, value in enumerate(values)}
        found[model, int(num_steps)] = rows
    return found


def test_what_few_steps_cost_is_paired_by_seed(steps: list[Step]) -> None:
    timing = {"train_step_s": 1.0, "frames_per_s": 2.0, "timed_on": []}
    found = judged(diffusion_forcing_64=[100, 200], diffusion_forcing_4=[300, 400, 999], ramp_4=[50], ramp_64=[40])
    numbers = summarise(steps[:6], found, {step.rung.name: timing for step in steps})
    gaps = numbers["few_step_gap"]
    assert list(gaps) == ["diffusion_forcing", "ramp"]
    assert gaps["diffusion_forcing"]["values"] == [2.0, 1.0]
    assert gaps["ramp"] == {"num_steps": 4, "finest": 64, "mean": 0.25, "ci95": None, "values": [0.25]}
    assert "ramp +25% (K = 4 against 64)" in few_step_sentence(gaps)
    assert [row["seeds"] for row in numbers["rungs"]] == [[0, 1], [0, 1, 2], [], [], [], [0]]
    assert numbers["rungs"][2]["psnr"] is None
