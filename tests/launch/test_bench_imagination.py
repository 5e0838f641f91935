"""Speed of imagination: what is counted is what runs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from launch.bench_imagination import PRESETS, bench_imagination
from tests.launch.conftest import Call


def test_dreams_and_updates_are_measured_for_both_actors(tmp_path: Path, call: Call) -> None:
    assert call("bench", "imagination", "debug", "--json", tmp_path / "numbers.json") == 0
    actors = json.loads((tmp_path / "numbers.json").read_text())["actors"]
    assert set(actors) == {"pmpo", "dynamics"}
    for row in actors.values():
        dream, update = row["dream"], row["update"]
        assert dream["flops"] > 0 and dream["floor_s"] > 0 and dream["seconds"] > 0
        assert dream["imagined_frames_per_s"] * dream["seconds"] == pytest.approx(row["dreams"] * row["horizon"])
        assert update["flops"] > dream["flops"]
    # The gradient that runs through the dynamics passes each product again, and the heads' alone does not.
    extra = {actor: row["update"]["flops"] - row["dream"]["flops"] for actor, row in actors.items()}
    assert extra["dynamics"] > 3 * extra["pmpo"]


def test_a_denoising_step_more_costs_a_pass_more() -> None:
    """A frame takes K passes and the commit; the commit's alone has agent tokens."""
    flops = []
    for steps in (1, 2, 4):
        numbers = bench_imagination(replace(PRESETS["debug"], num_steps=steps, actors=("pmpo",)))
        flops.append(numbers["actors"]["pmpo"]["dream"]["flops"])
    assert flops[2] - flops[1] == 2 * (flops[1] - flops[0])
