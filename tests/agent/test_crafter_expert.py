"""The expert at Crafter: what it knows, how it gets about, and what it comes to."""

import numpy as np
import pytest

from agent.crafter_drivers import SLIPS, CrafterDriver, Faults, graded_crafter_driver
from agent.crafter_expert import CrafterExpert
from agent.crafter_map import DOWN, LEFT, NUMBER, RIGHT, UP, CrafterMap
from agent.crafter_shelter import Room, best_room, is_closed, open_walls
from agent.drivers import make_driver
from agent.envs.base import Arrival
from agent.envs.crafter_sight import ACTIONS, MIDDLE, VIEW, Cell, Sight
from agent.milestones import crafter_score
from dynamics.actions import ActionSpace

LETTERS = {
    "w": "water",
    ".": "grass",
    "#": "stone",
    " ": "path",
    "T": "tree",
    "l": "lava",
    "t": "table",
    "d": "diamond",
}
BAG = dict.fromkeys(("health", "food", "drink", "energy"), 9) | dict.fromkeys(
    ("sapling", "wood", "stone", "coal", "iron", "diamond"), 0
)
TOOLS = dict.fromkeys([f"{kind}_{tool}" for kind in ("wood", "stone", "iron") for tool in ("pickaxe", "sword")], 0)
MEADOW = ["........."] * 7


class Blind:
    """An environment of no game."""

    action_space, frame_shape, fps, task_names = ActionSpace(binary=("x",)), (3, 8, 8), 5.0, ("go",)

    def reset(self, seed: int) -> Arrival:
        raise NotImplementedError

    def step(self, action_row: np.ndarray) -> Arrival:
        raise NotImplementedError

    def close(self) -> None: ...


class Meadow(Blind):
    def sight(self) -> Sight:
        return sight(MEADOW)


def sight(rows: list[str], *, things: dict[Cell, str] | None = None, facing: Cell = (0, 1), **bag: int) -> Sight:
    """A view of 9 x 7 cells, drawn row by row; the player stands in the middle."""
    ground = np.array([[NUMBER[LETTERS[letter]] for letter in row] for row in rows], np.uint8).T
    assert ground.shape == VIEW
    return Sight(
        ground=ground,
        things=things or {},
        bag={**BAG, **TOOLS, **bag},
        position=(32, 32),
        facing=facing,
        asleep=False,
        daylight=1.0,
    )


def seen(rows: list[str], **more: object) -> CrafterMap:
    world = CrafterMap()
    world.see(sight(rows, **more))  # type: ignore[arg-type]
    return world


def prices(**materials: int) -> list[int]:
    found = [0] * (len(NUMBER) + 1)
    for name, price in {"grass": 1, "path": 1, **materials}.items():
        found[NUMBER[name]] = price
    return found


def test_the_way_goes_around_what_cannot_be_entered_or_through_it_where_that_is_shorter() -> None:
    wall = ["........."] * 2 + ["########."] + ["........."] * 4
    world = seen([*wall[:1], "....d....", *wall[2:]])
    assert len(world.way(prices(), materials={NUMBER["diamond"]})) == 2 * 4 + 2
    through = world.way(prices(stone=2), materials={NUMBER["diamond"]})
    assert through == [world.here + UP, world.here + 2 * UP]
    assert world.way(prices(), materials={NUMBER["coal"]}) == []


def test_no_way_leads_over_lava_nor_through_what_was_never_seen() -> None:
    world = seen(["l" * 9] * 2 + ["lllllllll", "ll     ll"] + ["lllllllll"] * 3)
    assert world.way(prices(), cells={world.here + 5 * RIGHT}) == []
    assert all(
        world.here + step in {cell for cell in world.way(prices(), cells={world.here + step})} for step in (LEFT, RIGHT)
    )


def test_a_free_cell_is_faced_by_coming_from_the_opposite_side() -> None:
    world = seen(MEADOW)
    assert world.facing == DOWN
    assert world.turn_to({world.here + LEFT}) in (RIGHT, UP, DOWN), "pressing left would step onto it"
    walled = seen(["........."] * 3 + ["...#....."] + ["........."] * 3)
    assert walled.turn_to({walled.here + LEFT}) == LEFT, "what cannot be entered is turned to"


def test_a_dead_end_is_the_best_room_and_needs_one_stone() -> None:
    tunnel = ["#########"] * 3 + ["###      "] + ["#########"] * 3
    world = seen(tunnel)
    room = best_room(world, stones=1, reach=4)
    assert room is not None and world.here in room.cells and not open_walls(world, room.sides)
    assert best_room(seen(MEADOW), stones=5, reach=4) is None, "a room in the open takes six"
    assert best_room(seen(MEADOW), stones=6, reach=4) is not None
    assert not is_closed(world) and is_closed(seen(["#########"] * 3 + ["####  ###"] + ["#########"] * 3))


def test_walls_and_ends_of_a_room_lie_around_it() -> None:
    room = Room(1000, RIGHT)
    around = {cell + step for cell in room.cells for step in (LEFT, RIGHT, UP, DOWN)} - set(room.cells)
    assert {*room.sides, *room.ends} == around and len(around) == 6


@pytest.mark.parametrize(
    ("things", "facing", "bag", "action"),
    [
        ({(5, 3): "zombie"}, (1, 0), {}, "do"),
        ({(5, 3): "zombie"}, (0, 1), {}, "move_right"),
        ({}, (0, 1), {"sapling": 1}, "place_plant"),
    ],
    ids=["hits what is beside it", "turns to it first", "plants"],
)
def test_first_things_come_first(things: dict[Cell, str], facing: Cell, bag: dict[str, int], action: str) -> None:
    assert CrafterExpert().choose(sight(MEADOW, things=things, facing=facing, **bag)) == action


def test_a_thirsty_expert_goes_to_the_water_that_it_remembers() -> None:
    expert = CrafterExpert()
    expert.choose(sight(["w........", *MEADOW[1:]]))
    expert.map.see(sight(MEADOW))  # all of it dried up but for what lies out of view
    far = expert.map.here + 6 * RIGHT
    expert.map.ground[far : far + 1] = [NUMBER["water"]]
    for step in range(5):
        expert.map.ground[expert.map.here + step * RIGHT] = NUMBER["grass"]
        expert.map.ground[expert.map.here + (step + 1) * RIGHT] = NUMBER["grass"]
    assert expert.choose(sight(MEADOW, drink=2)) == "move_right"


def test_it_knows_only_what_was_in_view() -> None:
    pytest.importorskip("crafter")
    from agent.envs.crafter import CrafterEnvironment

    env, driver = CrafterEnvironment(stock=False), CrafterDriver()
    env.reset(1)
    driver.reset(np.random.default_rng(0))
    row = driver.act(env)
    known = sum(number < len(NUMBER) for number in driver._expert.map.ground)
    assert row is not None and known == VIEW[0] * VIEW[1] == (2 * MIDDLE[0] + 1) * (2 * MIDDLE[1] + 1)


@pytest.mark.slow
def test_the_expert_comes_to_stone_tools_and_often_to_iron() -> None:
    pytest.importorskip("crafter")
    from agent.envs.crafter import CrafterEnvironment

    env, driver, events = CrafterEnvironment(stock=False), CrafterDriver(), []
    for seed in range(5_000_000, 5_000_006):
        arrival, found = env.reset(seed), set()
        driver.reset(np.random.default_rng(seed))
        for _ in range(500):
            row = driver.act(env)
            assert row is not None
            arrival = env.step(row)
            found |= set(arrival.info["events"])
            if arrival.is_last:
                break
        events.append(found)
    assert sum("make_stone_pickaxe" in found for found in events) >= 4
    assert sum("collect_iron" in found for found in events) >= 1


def test_faults_are_random_actions_lapses_and_giving_up() -> None:
    def actions(faults: Faults, steps: int = 200) -> list[str]:
        driver = CrafterDriver(faults)
        driver.reset(np.random.default_rng(3))
        rows = [driver.act(Meadow()) for _ in range(steps)]
        return [ACTIONS[int(row[0])] for row in rows if row is not None]

    assert len(actions(Faults(gives_up=7))) == 7
    assert set(actions(Faults(random_share=1.0))) == set(SLIPS)
    lapsed = actions(Faults(lapses=100, lapse_steps=20))
    assert np.mean([one == other for one, other in zip(lapsed, lapsed[1:], strict=False)]) > 0.8
    assert set(lapsed) <= set(SLIPS)
    with pytest.raises(ValueError, match="random_share"):
        Faults(random_share=2.0)


def test_graded_drivers_are_of_every_skill() -> None:
    faults = [graded_crafter_driver(np.random.default_rng(seed)).faults for seed in range(100)]
    assert 50 < sum(one.gives_up is not None for one in faults) < 80
    assert min(one.random_share for one in faults) < 0.03 < 0.12 < max(one.random_share for one in faults)


def test_it_is_no_driver_of_another_game() -> None:
    driver = make_driver("crafter_expert", np.random.default_rng(0))
    driver.reset(np.random.default_rng(0))
    with pytest.raises(ValueError, match="knows Crafter alone, Blind"):
        driver.act(Blind())


def test_the_score_is_a_geometric_mean_by_which_rare_successes_count() -> None:
    assert crafter_score([1.0] * 22) == pytest.approx(100) and crafter_score([0.0] * 22) == 0
    assert crafter_score([0.02, 0.0]) == pytest.approx(3**0.5 - 1)
    assert crafter_score([0.1, 0.1]) > crafter_score([0.2, 0.0])
