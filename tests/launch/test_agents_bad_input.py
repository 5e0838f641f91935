"""What is no data for an agent is told in a sentence, before anything is trained."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agent.agent import AgentConfig
from agent.imagination import ImaginationConfig
from dynamics.actions import ActionSpace
from launch.models import check_actions, load_agent, load_world
from launch.train_agent import LOOKED_AT, knows_actions, train_agent
from launch.train_agent import PRESETS as CLONING
from launch.train_imagination import PRESETS as IMAGINATION
from launch.train_imagination import train_imagination
from tests.launch.conftest import Call
from tokenizer.shard_format import INDEX
from tokenizer.shards import Dataset, _SampleFile


@pytest.fixture
def unpaid(pipeline: Path, tmp_path: Path) -> Path:
    """Latents whose every clip earned nothing."""
    folder = tmp_path / "unpaid"
    shutil.copytree(pipeline / "latents/train", folder)
    for path in folder.glob("shard-*.json"):
        sidecar = json.loads(path.read_text())
        for sample in sidecar["samples"]:
            sample["reward_sum"] = 0.0
        path.write_text(json.dumps(sidecar))
    return folder


def cloning(pipeline: Path, run: Path, data: Path) -> list[object]:
    options = {"run": run, "data": data, "held-out": pipeline / "latents/held_out", "dynamics": pipeline / "dynamics"}
    return ["debug", *(text for name, value in options.items() for text in (f"--{name}", value))]


def test_imagination_refuses_data_without_rewards_and_cloning_works(
    pipeline: Path, unpaid: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call("train_agent", *cloning(pipeline, tmp_path / "agent", unpaid), "--steps", 1) == 0
    capfd.readouterr()
    options = ["debug", "--run", tmp_path / "imagination", "--data", unpaid, "--agent", tmp_path / "agent"]
    assert call("train_imagination", *options, "--held-out", pipeline / "latents/held_out") == 1
    said = " ".join(capfd.readouterr().err.split())
    assert "holds no reward, and imagination has nothing to strive for" in said
    assert not list((tmp_path / "imagination").rglob("*.safetensors"))


def test_an_agent_that_was_cloned_from_scratch_cannot_dream(
    pipeline: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    data = pipeline / "latents/train"
    options = cloning(pipeline, tmp_path / "agent", data)
    assert call("train_agent", *options, "--steps", 1, "--from-scratch", "--model.learns", "policy") == 0
    fresh, trained = load_agent(tmp_path / "agent").world, load_world(pipeline / "dynamics")
    assert torch.equal(fresh.latent_mean, trained.latent_mean)
    alike = [(fresh.get_parameter(name), known) for name, known in trained.named_parameters() if known.ndim == 2]
    assert all(abs(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)) < 0.5 for a, b in alike if a.numel() > 200)
    capfd.readouterr()
    options = ["debug", "--run", tmp_path / "imagination", "--data", data, "--agent", tmp_path / "agent"]
    assert call("train_imagination", *options, "--held-out", pipeline / "latents/held_out") == 1
    assert "was cloned without the losses video, reward, end: it cannot dream" in " ".join(
        capfd.readouterr().err.split()
    )


def test_data_whose_actions_are_unknown_cannot_be_cloned(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Dataset.read_window

    def without_actions(self: Dataset, index: int, start: int, length: int) -> object:
        clip = whole(self, index, start, length)
        return replace(clip, labeled=clip.labeled & False)

    monkeypatch.setattr(Dataset, "read_window", without_actions)
    with pytest.raises(ValueError, match="no action is known in 64 clips of .*: there is nothing to clone"):
        train_agent(_cloning(pipeline, tmp_path))


def test_actions_out_of_range_are_named_and_shown_to_no_training(
    pipeline: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In all clips, which is an error; and in one, which is left out."""
    spoilt = {sample.key for sample in Dataset.open(pipeline / "latents/train").samples}
    whole = _SampleFile.array

    def too_far(self: _SampleFile, name: str, *expected: object) -> object:
        array = whole(self, name, *expected)
        return array * 0 + 1.5 if name == "actions.npy" and self.sample.key in spoilt else array

    monkeypatch.setattr(_SampleFile, "array", too_far)
    cloned = cloning(pipeline, tmp_path / "agent", pipeline / "latents/train")
    dreams = ["debug", "--run", tmp_path / "dreams", "--agent", pipeline / "agent"]
    for command, options in (("train_agent", cloned), ("train_imagination", [*dreams, *cloned[3:7]])):
        assert call(command, *options) == 1
        assert "action part 'steering' is 1.5, allowed: -1 to 1" in " ".join(capfd.readouterr().err.split())
    spoilt = {min(spoilt)}
    for command, options in (("train_agent", cloned), ("train_imagination", [*dreams, *cloned[3:7]])):
        assert call(command, *options) == 0
        assert f"skipped corrupt sample {min(spoilt)}" in capfd.readouterr().out


def test_labels_for_a_part_of_the_data_are_enough(pipeline: Path, tmp_path: Path, call: Call) -> None:
    options = cloning(pipeline, tmp_path / "agent", pipeline / "latents/train")
    assert call("train_agent", *options, "--steps", 2, "--labeled-share", 0.5) == 0


def test_few_labeled_clips_among_video_are_found(pipeline: Path) -> None:
    dataset = Dataset.open(pipeline / "latents/train")
    known = ("actions.npy", "labeled.npy")
    video = [
        replace(sample, members={name: m for name, m in sample.members.items() if name not in known})
        for sample in dataset.samples[:-1]
    ]
    mostly_video = dataset.only([*video * LOOKED_AT, dataset.samples[-1]])
    assert not any(sample.has_actions for sample in mostly_video.samples[:-1])
    assert knows_actions(mostly_video, 4)
    assert not knows_actions(dataset.only(video), 4)


def test_held_out_episodes_and_tasks_that_do_not_fit_are_refused(
    pipeline: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    def another(name: str, **facts: object) -> Path:
        shutil.copytree(pipeline / "latents/held_out", folder := tmp_path / name)
        index = folder / INDEX
        index.write_text(json.dumps({**json.loads(index.read_text()), **facts}))
        return folder

    def said() -> str:
        return " ".join(capfd.readouterr().err.split())

    options = cloning(pipeline, tmp_path / "agent", pipeline / "latents/train")
    assert call("train_agent", *options, "--held-out", another("other", tokenizer="0123456789abcdef")) == 1
    assert "other is of tokenizer 0123456789abcdef" in said()
    two = another("two", tasks=["drive", "cruise"])
    assert call("train_agent", *options, "--held-out", two) == 1
    assert "was trained for the tasks drive, and" in (complaint := said()) and "two is of drive, cruise" in complaint
    dreaming = ["debug", "--run", tmp_path / "dreams", "--agent", pipeline / "agent", "--data", two]
    assert call("train_imagination", *dreaming, "--held-out", pipeline / "latents/held_out") == 1
    assert "two is of drive, cruise: give the data that it was trained on" in said()
    cruise = another("cruise", tasks=["cruise"])
    assert call("train_imagination", *dreaming, "--data", cruise, "--held-out", pipeline / "latents/held_out") == 1
    assert "was trained for the tasks drive, and" in said()
    jumps = another("jumps", action_space=ActionSpace(continuous=("left", "up", "jump")).to_json())
    for command in (
        ["train_agent", *options, "--data", jumps],
        ["train_agent", *options, "--held-out", jumps],
        ["train_imagination", *dreaming, "--data", jumps, "--held-out", pipeline / "latents/held_out"],
    ):
        assert call(*command) == 1
        assert "jumps in" in (complaint := said()) and "give the data that it was trained on" in complaint


def test_a_world_model_of_another_action_space_is_refused(pipeline: Path) -> None:
    meta = Dataset.open(pipeline / "latents/train").meta
    with pytest.raises(ValueError, match="acts in .*jump.* give the data that it was trained on"):
        check_actions(ActionSpace(binary=("jump",)), meta, model=Path("run"), other="data")
    agent = load_agent(pipeline / "agent")
    check_actions(agent.config.dynamics.actions, meta, model=Path("run"), other="data")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"horizon": 0}, "horizon=0"),
        ({"discount": 1.5}, "discount=1.5 is not in"),
        ({"beta": -1.0}, "beta=-1.0"),
        ({"min_advantage": -0.1}, "min_advantage=-0.1"),
    ],
)
def test_settings_of_imagination_that_make_no_sense_are_named(setting: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ImaginationConfig(**setting)  # type: ignore[arg-type]


def test_a_share_of_relevant_clips_is_a_share(pipeline: Path) -> None:
    with pytest.raises(ValueError, match="relevant_share=0"):
        replace(CLONING["debug"], relevant_share=0.0)
    assert AgentConfig().learns and IMAGINATION and train_imagination


def _cloning(pipeline: Path, tmp_path: Path) -> object:
    return replace(
        CLONING["debug"],
        run=tmp_path / "agent",
        data=(str(pipeline / "latents/train"),),
        held_out=None,
        dynamics=pipeline / "dynamics",
    )
