"""An expert at Crafter that acts by what its frames show and by what it remembers of them.

It makes what the ladder to a diamond asks for, and what it lacks for that it looks for by exploring what it has not
seen. Before all that it defends itself, drinks, eats, and sleeps in a room that it closes with stones.
"""

from collections.abc import Mapping

from agent.crafter_map import AROUND, DOWN, FOES, LEFT, NUMBER, RIGHT, STEPS, UP, distance
from agent.crafter_shelter import Room, best_room, is_closed, open_walls
from agent.crafter_walker import AGE, PRESS, TOOLS, Walker
from agent.envs.crafter_sight import Sight

RECIPES: Mapping[str, Mapping[str, int]] = {
    "wood_pickaxe": {"wood": 1},
    "wood_sword": {"wood": 1},
    "stone_pickaxe": {"wood": 1, "stone": 1},
    "stone_sword": {"wood": 1, "stone": 1},
    "iron_pickaxe": {"wood": 1, "coal": 1, "iron": 1},
    "iron_sword": {"wood": 1, "coal": 1, "iron": 1},
}
TABLE, FURNACE = {"wood": 2}, {"stone": 4}
SOURCES = {"wood": "tree", "drink": "water"}
"""Item -> material, where they are not called the same."""
MEADOW = frozenset(NUMBER[name] for name in ("grass", "sand", "tree"))
MOUNTAIN = frozenset(NUMBER[name] for name in ("stone", "path", "coal", "iron", "lava"))
LIKED = {"wood": MEADOW, "drink": MEADOW, "cow": MEADOW, "grass": MEADOW}
"""Where to look for it; all else is in the mountains."""
FULL, ENOUGH = 9, 6
"""Of an item; and of wood, for what is made in the mountains."""
DARK = 0.45
FAR = 25
"""Steps from which on a new table is set up in place of walking to one."""
RESERVE = 4
"""Stones that are always carried, for shelters."""
NEAR = 8
"""Steps that what can wait is worth."""
HUNT = 40
"""Steps in all for which skeletons are run after."""
FARMS = 4
"""Plants that are put in the ground, at most."""
REACH = 17
"""Steps from the player within which a plant grows."""
RIPE = 305
"""Steps in which it ripens, and some more."""
MUCH_GRASS = 12
"""Cells of the view."""
PATIENCE = 80
"""Steps after which a shelter that is not closed yet is given up, and for which none is looked for then."""


class CrafterExpert:
    """Plays one episode, sight by sight."""

    def __init__(self) -> None:
        self.walker = Walker()
        self.map = self.walker.map
        self.done: set[str] = set()
        """Deeds that frames showed, of those that the bag does not keep."""
        self._before: Sight | None = None
        self._errand, self._errand_since = "", 0
        self._room: Room | None = None
        self._no_shelter_until = 0
        self._farm = 0
        self._grown = self._farms = self._hunted = 0
        self._before_light = 1.0

    def choose(self, sight: Sight) -> str:
        """The next action, by its name in the game."""
        self._take_in(sight)
        if sight.asleep:
            return "sleep"
        return self._defend() or self._finish() or self._survive() or self._work() or "noop"

    def _take_in(self, sight: Sight) -> None:
        before, world = self._before, self.map
        self._before_light = before.daylight if before else 1.0
        front = world.front
        enemy = world.things.get(front, "")
        self.walker.see(sight)
        self.sight, self.bag = sight, sight.bag
        if before is not None:
            gone = enemy not in {world.things.get(front + step, "") for step in (0, *STEPS)}
            if enemy in FOES and gone:
                self.done.add(f"defeat_{enemy}")
            if sight.bag["food"] > before.bag["food"]:
                self.done.add("eat_plant" if enemy == "plant-ripe" else "eat_cow")
                self._grown = 0 if enemy == "plant-ripe" else self._grown
            if sight.bag["sapling"] < before.bag["sapling"]:
                self.done.add("place_plant")
                self._farm, self._grown, self._farms = front, 0, self._farms + 1
        if self._farm and world.in_view(self._farm) and not world.things.get(self._farm, "").startswith("plant"):
            self._farm = 0
        self._grown += bool(self._farm) and distance(world.here, self._farm) <= REACH
        self._before = sight

    # What every plan is made of.

    def _gather(self, item: str) -> str:
        tool = TOOLS.get(item)
        if tool and not self.bag[tool]:
            return self._make(tool)
        material = NUMBER[SOURCES.get(item, item)]
        return self.walker.go(item, materials={material}) or self.walker.explore(LIKED.get(item, MOUNTAIN))

    # Staying alive.

    def _defend(self) -> str:
        world = self.map
        near = [step for step in STEPS if world.things.get(world.here + step) in FOES]
        if near:
            return self.walker.use(world.facing if world.facing in near else near[0])
        for step in STEPS:
            if any(self._flies(world.here + step * far, -step) for far in (1, 2)):
                return self._dodge(step)
        return ""

    def _flies(self, cell: int, step: int) -> bool:
        name = PRESS[step].replace("move", "arrow").replace("_", "-")
        return self.map.things.get(cell) == name

    def _dodge(self, step: int) -> str:
        world = self.map
        if world.facing == step and world.is_free(world.front) and self.bag["stone"]:
            return "place_stone"
        across = (UP, DOWN) if step in (LEFT, RIGHT) else (LEFT, RIGHT)
        return next((PRESS[side] for side in across if world.is_free(world.here + side)), "")

    def _survive(self) -> str:
        errand = self._next_errand()
        if errand != self._errand:
            self._errand, self._errand_since, self._room = errand, self.walker.steps, None
        if errand == "drink":
            return self._gather("drink")
        if errand == "eat":
            return self._eat()
        return self._shelter() if errand == "sleep" else ""

    def _next_errand(self) -> str:
        bag, errand = self.bag, self._errand
        if bag["drink"] <= 3 or errand == "drink" and bag["drink"] < FULL and bag["food"] > 1:
            return "drink"
        if bag["food"] <= 3 or errand == "eat" and bag["food"] < FULL - 3:
            return "eat"
        if self._wants_rest() and self.walker.steps >= self._no_shelter_until:
            return "sleep"
        if bag["drink"] <= 6 and self._sees("water"):
            return "drink"
        if bag["food"] <= 6 and "cow" in self.map.things.values():
            return "eat"
        return ""

    def _is_dark(self) -> bool:
        return self.sight.daylight < DARK

    def _in_meadow(self) -> bool:
        """Where zombies come from."""
        return int((self.sight.ground == NUMBER["grass"]).sum()) >= MUCH_GRASS

    def _wants_rest(self) -> bool:
        bag = self.bag
        if not bag["wood_pickaxe"] or bag["stone"] < 1:
            return False
        if self._is_dark() and (bag["energy"] <= 6 or bag["health"] <= 6 and self._in_meadow()):
            return True
        if self._errand == "sleep":
            return bag["energy"] < FULL or bag["health"] < 7
        return bag["energy"] <= 3 or bag["health"] <= 4

    def _sees(self, material: str) -> bool:
        return NUMBER[material] in self.sight.ground

    def _eat(self) -> str:
        if self._farm and self._grown > RIPE:
            action = self.walker.go("farm", cells={self._farm})
            if action:
                return action
        return self.walker.go("cow", cells=self.map.cows) or self.walker.explore(MEADOW)

    def _shelter(self) -> str:
        """Rest in a closed room, or the next step to one."""
        world, stones = self.map, self.bag["stone"]
        if is_closed(world):
            return "sleep" if self.bag["energy"] < FULL else "noop"
        if self.walker.steps - self._errand_since > PATIENCE:
            self._no_shelter_until = self.walker.steps + PATIENCE
            return ""
        if self._room is None or not stones:
            self._room = best_room(world, stones=stones, reach=10)
        if self._room is None:
            self._no_shelter_until = self.walker.steps + AGE
            return ""
        room = self._room
        sides = open_walls(world, room.sides)
        if sides:
            action = self._wall(sides)
        elif world.here not in room.cells:
            action = self.walker.go(room, cells=set(room.cells), avoid=set(room.sides), enter=True, limit=40)
        elif world.front in open_walls(world, room.ends):
            action = "place_stone" if world.is_free(world.front) else "do"
        else:
            action = self.walker.enter(room.cells[world.here == room.one])
        if not action:
            self._room = None
        return action

    def _wall(self, cells: list[int]) -> str:
        """Puts a stone onto one of these cells."""
        world = self.map
        if not self.bag["stone"]:
            return ""
        if world.front in cells:
            return "place_stone" if world.is_free(world.front) else "do"
        step = world.turn_to({cell for cell in cells if world.is_free(cell)})
        return PRESS[step] if step else ""

    # Getting on.

    def _work(self) -> str:
        bag = self.bag
        return (
            self._first_plant()
            or self._missing("wood_pickaxe")
            or self._missing("wood_sword")
            or self._stock()
            or self._missing("stone_pickaxe")
            or self._missing("stone_sword")
            or self._reserve()
            or self._hunt()
            or self._missing("iron_pickaxe")
            or self.walker.go("diamond", materials={NUMBER["diamond"]})
            or self._keep_farm()
            or (self._missing("iron_sword") if bag["iron"] or self.knows("iron") else "")
            or self.walker.explore(MOUNTAIN)
            or self._missing("iron_sword")
        )

    def knows(self, material: str) -> bool:
        return NUMBER[material] in self.map.ground

    def _finish(self) -> str:
        """A tool of iron, before anything else once all of it is there."""
        bag = self.bag
        ready = bag["coal"] and bag["iron"] and bag["wood"] > TABLE["wood"] and bag["stone"] >= FURNACE["stone"]
        return self._missing("iron_pickaxe") if ready and bag["stone_pickaxe"] and bag["health"] > 2 else ""

    def _missing(self, item: str) -> str:
        return "" if self.bag[item] else self._make(item)

    def _first_plant(self) -> str:
        """A sapling of the grass ahead, at the very beginning: it is soon trampled down, but it was put there."""
        world = self.map
        ahead = world.ground[world.front] == NUMBER["grass"] and world.is_free(world.front)
        if not ahead or "place_plant" in self.done:
            return ""
        if self.bag["sapling"]:
            return "place_plant"
        return "do" if self.walker.steps < 20 else ""

    def _stock(self) -> str:
        """As much wood as can be carried: there is none in the mountains."""
        if self.bag["stone_pickaxe"] or self.bag["wood"] >= FULL:
            return ""
        return self.walker.go("stock", materials={NUMBER["tree"]}, limit=FAR if self.bag["wood"] < ENOUGH else NEAR)

    def _reserve(self) -> str:
        """Stones for a shelter."""
        if self.bag["stone"] >= RESERVE:
            return ""
        evening = DARK < self.sight.daylight < 0.9 and self._before_light > self.sight.daylight
        return self.walker.go("reserve", materials={NUMBER["stone"]}, limit=FAR if evening else NEAR)

    def _make(self, item: str) -> str:
        """At a table, by a furnace for things of iron; set up here where there is none near."""
        by_furnace = item.startswith("iron")
        needs = dict(RECIPES[item])
        at = self._sites(by_furnace)
        if min((distance(self.map.here, cell) for cell in at), default=FAR) >= FAR:
            at = set()
            needs["wood"] += 0 if self._near("table") else TABLE["wood"]
            needs |= FURNACE if by_furnace else {}
        for material, count in needs.items():
            if self.bag[material] < count:
                return self._gather(material)
        if self.map.here in at:
            return f"make_{item}"
        if at:
            return self.walker.go(("site", item), cells=at, enter=True)
        return self._set_up("furnace" if self._near("table") else "table")

    def _near(self, what: str) -> bool:
        return any(self.map.here + step in self.map.places[NUMBER[what]] for step in AROUND)

    def _sites(self, by_furnace: bool) -> set[int]:
        """Cells where a table, and if need be a furnace, is at hand."""
        tables, furnaces = (
            {cell + step for cell in self.map.places[NUMBER[what]] for step in AROUND} for what in ("table", "furnace")
        )
        return tables & furnaces if by_furnace else tables

    def _set_up(self, what: str) -> str:
        """Onto the cell ahead, or onto one that is cleared for it; a furnace while the table is at hand."""
        world, prices = self.map, self.walker.prices()
        if world.is_free(world.front):
            return f"place_{what}"
        for step in STEPS:
            to = world.here + step
            if prices[world.ground[to]] and not world.is_free(to) and to not in world.things:
                return self.walker.enter(to)
        tables = self._sites(False)
        free = [step for step in STEPS if world.is_free(world.here + step)]
        free.sort(key=lambda step: world.here + step not in tables)
        return PRESS[free[0]] if free else ""

    def _hunt(self) -> str:
        """A skeleton in view, if none was defeated yet and health allows it."""
        cells = {cell for cell, name in self.map.things.items() if name == "skeleton"}
        if not cells or "defeat_skeleton" in self.done or self.bag["health"] < 7 or self._hunted >= HUNT:
            return ""
        self._hunted += 1
        return self.walker.go("skeleton", cells=cells, limit=12)

    def _keep_farm(self) -> str:
        """A plant with stones around it, to be eaten when it is ripe."""
        if "eat_plant" in self.done:
            return ""
        world = self.map
        if self._farm:
            walls = open_walls(world, [self._farm + step for step in STEPS])
            if walls and distance(world.here, self._farm) <= REACH and self._grown < RIPE:
                return self._wall(walls) or (self._gather("stone") if not self.bag["stone"] else "")
            return self.walker.go("farm", cells={self._farm}) if self._grown > RIPE else ""
        if self.bag["stone"] < 4 or self._is_dark() or self._farms >= FARMS:
            return ""
        if world.ground[world.front] == NUMBER["grass"] and world.is_free(world.front):
            return "place_plant" if self.bag["sapling"] else "do"
        return self.walker.go("grass", materials={NUMBER["grass"]}, enter=True, limit=NEAR)
