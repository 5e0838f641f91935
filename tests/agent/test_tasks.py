"""Several tasks in one agent: each has rewards of its own, and the one that it is told changes what it does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("Box2D")

from agent.agent import Agent, AgentConfig
from agent.collecting import collect_episode
from agent.drivers import make_driver
from agent.envs.base import Arrival
from agent.envs.car_racing import CarRacingEnvironment
from agent.heads import HeadConfig
from dynamics.actions import ActionSpace
from tests.builders import DYNAMICS, latent_clip, seeded

DRIVE, CRUISE = 0, 1


def earned(driver: str, task: int) -> float:
    env = CarRacingEnvironment(stock=False, action_repeat=4, draw=False)
    return collect_episode(env, make_driver(driver, np.random.default_rng(3)), seed=3, task=task).total_reward


def test_who_is_fast_earns_by_driving_and_who_is_calm_by_cruising() -> None:
    assert earned("scripted", DRIVE) > earned("cruising", DRIVE) + 100
    assert earned("cruising", CRUISE) > earned("scripted", CRUISE) + 100


def test_a_car_that_stands_earns_next_to_nothing_by_cruising() -> None:
    env = CarRacingEnvironment(stock=False, action_repeat=4, draw=False)
    env.reset(0)
    stands = np.array([0, -1, 1], dtype=np.float32)
    assert sum(env.step(stands).earned(CRUISE) for _ in range(50)) < 1


def test_the_stock_game_pays_the_same_for_cruising() -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32)
    rows[:, 1:] = (1, -1)
    paid = []
    for stock in (True, False):
        env = CarRacingEnvironment(stock=stock, action_repeat=4)
        env.reset(5)
        paid.append([env.step(row).task_rewards for row in rows])
        env.close()
    assert paid[0] == paid[1]
    assert max(calm for _, calm in paid[0]) > 0.5


def test_a_task_that_an_environment_has_not_is_refused_and_one_without_tasks_pays_its_reward() -> None:
    space = ActionSpace(continuous=("x",))
    frame, row = np.zeros((3, 2, 2), np.uint8), np.zeros(1, np.float32)
    arrival = Arrival.after(row, frame, 2.5, {}, terminated=False, truncated=False)
    assert arrival.earned(0) == 2.5
    with pytest.raises(ValueError, match="task=1, this environment has tasks 0 to 0"):
        arrival.earned(1)
    assert Arrival.first(space, frame, {}, num_tasks=2).earned(1) == 0
    two = replace(arrival, task_rewards=(2.5, 1.0))
    assert two.earned(1) == 1.0 and two.unpaid().earned(1) == 0


def test_the_task_that_a_trained_agent_is_told_changes_what_it_does() -> None:
    """Of clips that look alike, those of one task steer left and those of the other right."""
    torch.manual_seed(0)
    space = ActionSpace(continuous=("steer",))
    dynamics = replace(DYNAMICS, actions=space)
    heads = HeadConfig(hidden=16, distances=2, action_bins=5)
    config = AgentConfig(dynamics=dynamics, heads=heads, tasks=("go", "stay"))
    agent = Agent(config)
    clip = latent_clip(8, 4, space=space)
    task = torch.arange(8) % 2
    clip = replace(clip, actions=(2.0 * task - 1)[:, None, None].expand(-1, 4, 1) * clip.labeled[..., None], task=task)
    unseen = replace(clip, labeled=torch.zeros_like(clip.labeled), actions=torch.zeros_like(clip.actions))
    optimizer = torch.optim.AdamW(agent.parameters(), lr=1e-2)
    for step in range(60):
        loss = agent.policy_loss(agent.read(unseen, seeded(step)), clip)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        told = []
        for number in (0, 1):
            same = replace(unseen, task=torch.full((8,), number))
            told.append(agent.policy.sample(agent.policy(agent.read(same, seeded(9))[:, -1]), seeded(10)).mean())
    assert told[0] < -0.8 and told[1] > 0.8
