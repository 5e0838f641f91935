"""Against MineRL itself, where the variable MINERL_TREE names a folder with its package (no Minecraft is started).

MINERL_PYTHON is an interpreter that has MineRL's dependencies; TREE/venv/bin/python where it is not given.
"""

import json
import os
import subprocess
from typing import Any

import numpy as np
import pytest

from agent.envs.minecraft_actions import KEYS, MINERL_NAMES, to_minerl
from agent.envs.minecraft_events import COUNTERS
from agent.envs.minerl_game import CHILD

TREE = os.environ.get("MINERL_TREE", "")
pytestmark = pytest.mark.skipif(not TREE, reason="MINERL_TREE names no tree of MineRL")

SCRIPT = """
import importlib.util, json, sys
import gym, minerl
from minerl.herobraine.env_specs.human_survival_specs import HumanSurvival

spec = importlib.util.spec_from_file_location("child", sys.argv[1])
child = importlib.util.module_from_spec(spec)
spec.loader.exec_module(child)
env = gym.make("MineRLHumanSurvival-v0")
child._count_what_is_opened(env)
task = env.unwrapped.task
task.reset()
known = {handler.to_string(): handler for handler in task.observables}
player = child.Child.__new__(child.Child)
player.env = env
actions = [player.checked(action) for action in json.load(sys.stdin)]
commands = [env.unwrapped._process_action(task.agent_names[0], action) for action in actions]
print(json.dumps({
    "actions": sorted(env.action_space.spaces),
    "commands": commands,
    "counters": {kind: sorted(known[kind].space.spaces) if kind in known else None for kind in json.loads(sys.argv[2])},
}))
"""


@pytest.fixture(scope="module")
def minerl() -> dict[str, Any]:
    """What its own code makes of our actions."""
    python = os.environ.get("MINERL_PYTHON", f"{TREE}/venv/bin/python")
    row = np.array([120, *(key in ("attack", "hotbar_3") for key in KEYS)], np.float32)
    whole = to_minerl(row)
    actions = [{**whole, "camera": whole["camera"].tolist()}, {**dict.fromkeys(whole, 0), "camera": [300.0, -300.0]}]
    kinds = sorted({counter.partition(":")[0] for counter in COUNTERS})
    done = subprocess.run(
        [python, "-c", SCRIPT, CHILD, json.dumps(kinds)],
        input=json.dumps(actions),
        capture_output=True,
        text=True,
        cwd=TREE,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_its_actions_are_ours(minerl: dict[str, Any]) -> None:
    assert set(minerl["actions"]) == {*MINERL_NAMES.values(), "camera"}


def test_its_command_has_every_key_once_and_the_camera_within_bounds(minerl: dict[str, Any]) -> None:
    pressed, turned = (dict(line.split(" ", 1) for line in text.splitlines()) for text in minerl["commands"])
    for command in (pressed, turned):
        assert len(command) == 24
    assert pressed["attack"] == pressed["hotbar.3"] == "1" and pressed["forward"] == "0"
    np.testing.assert_allclose([float(part) for part in pressed["camera"].split()], [10, 10], atol=1e-5)
    np.testing.assert_allclose([float(part) for part in turned["camera"].split()], [180, -180])


def test_it_tells_the_counters_that_pay_for_tasks(minerl: dict[str, Any]) -> None:
    for counter in COUNTERS:
        kind, item = counter.split(":")
        assert minerl["counters"][kind] is not None and item in minerl["counters"][kind], counter
