"""The adapter that docs/your_world.md shows, installed as a package would be."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.launching import no_rank, run_command
from tokenizer.records import EpisodeClip
from tokenizer.shards import Dataset

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that finds the page's module and its entry point."""
    page = (ROOT / "docs/your_world.md").read_text()
    (module,), (project,) = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "toml"))
    entry = re.search(r'\[project.entry-points."(reverie.envs)"\]\n(\w+) = "(my_world:make)"', project)
    assert entry is not None
    place = tmp_path / "site"
    (place / "my_world-1.dist-info").mkdir(parents=True)
    (place / "my_world.py").write_text(module)
    (place / "my_world-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: my-world\nVersion: 1\n")
    (place / "my_world-1.dist-info/entry_points.txt").write_text(f"[{entry[1]}]\n{entry[2]} = {entry[3]}\n")
    assert len(module.splitlines()) <= 45
    return {**no_rank(), "PYTHONPATH": os.pathsep.join([str(ROOT), str(place)])}


def said_by(environment: dict[str, str], *arguments: object, code: int = 0) -> str:
    return " ".join(run_command([sys.executable, "-m", *arguments], env=environment, code=code).split())


@pytest.mark.slow
def test_the_world_of_the_page_is_collected_and_learned_from(installed: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    random = ("--driver", "random", "--held-out-driver", "random")
    said_by(installed, "launch.collect", "debug", "--env", "Lamp", *random, "--processes", 2, "--out", data)
    train = Dataset.open(data / "train")
    assert train.meta.environment == "Lamp" and train.meta.tasks == ("keep it lit",)
    clip = train.read_window(0, 0, 10)
    assert isinstance(clip, EpisodeClip)
    brightness = clip.frames.float().mean((1, 2, 3)).numpy() / 255
    turned = 0.05 * train.meta.action_repeat * clip.actions[1:, 0].numpy()
    np.testing.assert_allclose(brightness[1:], np.clip(brightness[:-1] + turned, 0, 1), atol=0.01)
    np.testing.assert_allclose(clip.rewards[1:].numpy(), brightness[1:], atol=0.01)

    folders = ("--data", data / "train", "--held-out", data / "held_out")
    said_by(installed, "launch.train_tokenizer", "debug", *folders, "--run", tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert any("held_out_psnr" in line for line in lines)


def test_worlds_that_are_not_there_are_named_with_those_that_are(installed: dict[str, str], tmp_path: Path) -> None:
    options = ("--driver", "random", "--held-out-driver", "random", "--out", tmp_path / "data")
    said = said_by(installed, "launch.collect", "debug", "--env", "Lantern", *options, code=1)
    assert "unknown environment 'Lantern', have ['CarRacing-v3', 'Crafter', 'Lamp', " in said
    said = said_by(installed, "launch.collect", "debug", "--env", "Lamp", "--out", tmp_path / "data", code=2)
    assert "knows CarRacing-v3 alone" in said
