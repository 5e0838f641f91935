"""An expert at Crafter that acts by what its frames show and by what it remembers of them.

It makes what the ladder to a diamond asks for, and what it lacks for that it looks for by exploring what it has not
seen. Before all that it defends itself, drinks, eats, and sleeps in a room that it closes with stones.
"""

from collections.abc import Collection, Container, Mapping

from agent.crafter_map import (
    AROUND,
    DOWN,
    FOES,
    FREE,
    LEFT,
    NUMBER,
    RIGHT,
    STEPS,
    UP,
    CrafterMap,
    distance,
)
from agent.crafter_shelter import Room, best_room, is_closed, open_walls
from agent.envs.crafter_sight import Sight

PRESS = {LEFT: "move_left", RIGHT: "move_right", UP: "move_up", DOWN: "move_down"}
RECIPES: Mapping[str, Mapping[str, int]] = {
    "wood_pickaxe": {"wood": 1},
    "wood_sword": {"wood": 1},
    "stone_pickaxe": {"wood": 1, "stone": 1},
    "stone_sword": {"wood": 1, "stone": 1},
    "iron_pickaxe": {"wood": 1, "coal": 1, "iron": 1},
    "iron_sword": {"wood": 1, "coal": 1, "iron": 1},
}
TABLE, FURNACE = {"wood": 2}, {"stone": 4}
TOOLS = {"stone": "wood_pickaxe", "coal": "wood_pickaxe", "iron": "stone_pickaxe", "diamond": "iron_pickaxe"}
"""Material -> what it takes to get it."""
SOURCES = {"wood": "tree", "drink": "water"}
"""Item -> material, where they are not called the same."""
MEADOW = frozenset(NUMBER[name] for name in ("grass", "sand", "tree"))
MOUNTAIN = frozenset(NUMBER[name] for name in ("stone", "path", "coal", "iron", "lava"))
LIKED = {"wood": MEADOW, "drink": MEADOW, "cow": MEADOW, "grass": MEADOW}
"""Where to look for it; all else is in the mountains."""
FULL, ENOUGH = 9, 6
"""Of an item; and of wood, for what is made in the mountains."""
AGE = 12
"""Steps for which a way is followed, if nothing comes in between."""
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
        self.map = CrafterMap()
        self.done: set[str] = set()
        """Deeds that frames showed, of those that the bag does not keep."""
        self.steps = 0
        self._before: Sight | None = None
        self._errand, self._errand_since = "", 0
        self._room: Room | None = None
        self._no_shelter_until = 0
        self._way: list[int] = []
        self._aim: object = None
        self._age = 0
        self._hopeless: dict[object, int] = {}
        """Aim -> step until which no way to it is looked for again."""
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
        world.see(sight)
        self.sight, self.bag, self.steps = sight, sight.bag, self.steps + 1
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

    def _use(self, step: int, action: str = "do") -> str:
        """On the next cell in this direction, which cannot be entered."""
        return action if self.map.facing == step else PRESS[step]

    def _enter(self, cell: int) -> str:
        step = cell - self.map.here
        if self.map.is_free(cell):
            return PRESS[step]
        water = self.map.ground[cell] == NUMBER["water"] and cell not in self.map.things
        return self._use(step, "place_stone" if water else "do")

    def _prices(self) -> list[int]:
        """Steps that it takes to come into a cell of each material, some of which must be dug away or bridged."""
        prices = [0] * (len(NUMBER) + 1)
        for number in FREE:
            prices[number] = 1
        prices[NUMBER["tree"]] = 3
        prices[NUMBER["water"]] = 5 if self.bag["stone"] else 0
        for material, tool in TOOLS.items():
            prices[NUMBER[material]] = 2 if self.bag[tool] else 0
        return prices

    def _go(
        self,
        aim: object,
        *,
        materials: Collection[int] = (),
        cells: Collection[int] = (),
        avoid: Container[int] = (),
        action: str = "do",
        enter: bool = False,
        limit: int = 300,
    ) -> str:
        """The next action on the way to the nearest of these, and at last on it or into it; empty if there is none."""
        prices, world = self._prices(), self.map
        if self._way and self._way[0] == world.here:
            self._way.pop(0)
        self._age += 1
        keeps = (
            self._way
            and self._aim == aim
            and self._age < AGE
            and self._way[0] - world.here in STEPS
            and not any(number in materials for number in world.news)
            and (self._way[-1] in cells or world.ground[self._way[-1]] in materials)
            and (len(self._way) == 1 or world.price(self._way[0], prices))
        )
        if not keeps:
            if self.steps < self._hopeless.get(aim, 0) and not any(number in materials for number in world.news):
                return ""
            self._way = world.way(prices, materials=materials, cells=cells, avoid=avoid, limit=limit)
            self._aim, self._age = aim, 0
        if not self._way:
            self._hopeless[aim] = self.steps + AGE
            return ""
        if len(self._way) == 1 and not enter:
            return self._use(self._way[0] - world.here, action)
        return self._enter(self._way[0])

    def _explore(self, liked: Container[int]) -> str:
        """Towards what was not seen yet."""
        world = self.map
        if self._way and self._way[0] == world.here:
            self._way.pop(0)
        prices, self._age = self._prices(), self._age + 1
        keeps = self._way and self._aim is liked and self._age < AGE and self._way[0] - world.here in STEPS
        if not keeps or not world.price(self._way[0], prices):
            self._way, self._aim, self._age = world.way_to_unknown(prices, liked), liked, 0
        return self._enter(self._way[0]) if self._way else ""

    def _gather(self, item: str) -> str:
        tool = TOOLS.get(item)
        if tool and not self.bag[tool]:
            return self._make(tool)
        material = NUMBER[SOURCES.get(item, item)]
        return self._go(item, materials={material}) or self._explore(LIKED.get(item, MOUNTAIN))

    # Staying alive.

    def _defend(self) -> str:
        world = self.map
        near = [step for step in STEPS if world.things.get(world.here + step) in FOES]
        if near:
            return self._use(world.facing if world.facing in near else near[0])
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
            self._errand, self._errand_since, self._room = errand, self.steps, None
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
        if self._wants_rest() and self.steps >= self._no_shelter_until:
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
            action = self._go("farm", cells={self._farm})
            if action:
                return action
        return self._go("cow", cells=self.map.cows) or self._explore(MEADOW)

    def _shelter(self) -> str:
        """Rest in a closed room, or the next step to one."""
        world, stones = self.map, self.bag["stone"]
        if is_closed(world):
            return "sleep" if self.bag["energy"] < FULL else "noop"
        if self.steps - self._errand_since > PATIENCE:
            self._no_shelter_until = self.steps + PATIENCE
            return ""
        if self._room is None or not stones:
            self._room = best_room(world, stones=stones, digs=True, reach=10)
        if self._room is None:
            self._no_shelter_until = self.steps + AGE
            return ""
        room = self._room
        sides = open_walls(world, room.sides)
        if sides:
            action = self._wall(sides)
        elif world.here not in room.cells:
            action = self._go(room, cells=set(room.cells), avoid=set(room.sides), enter=True, limit=40)
        elif world.front in open_walls(world, room.ends):
            action = "place_stone" if world.is_free(world.front) else "do"
        else:
            action = self._enter(room.cells[world.here == room.one])
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
            or self._go("diamond", materials={NUMBER["diamond"]})
            or self._keep_farm()
            or (self._missing("iron_sword") if bag["iron"] or self.knows("iron") else "")
            or self._explore(MOUNTAIN)
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
        return "do" if self.steps < 20 else ""

    def _stock(self) -> str:
        """As much wood as can be carried: there is none in the mountains."""
        if self.bag["stone_pickaxe"] or self.bag["wood"] >= FULL:
            return ""
        return self._go("stock", materials={NUMBER["tree"]}, limit=FAR if self.bag["wood"] < ENOUGH else NEAR)

    def _reserve(self) -> str:
        """Stones for a shelter."""
        if self.bag["stone"] >= RESERVE:
            return ""
        evening = DARK < self.sight.daylight < 0.9 and self._before_light > self.sight.daylight
        return self._go("reserve", materials={NUMBER["stone"]}, limit=FAR if evening else NEAR)

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
            return self._go(("site", item), cells=at, enter=True)
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
        world, prices = self.map, self._prices()
        if world.is_free(world.front):
            return f"place_{what}"
        for step in STEPS:
            to = world.here + step
            if prices[world.ground[to]] and not world.is_free(to) and to not in world.things:
                return self._enter(to)
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
        return self._go("skeleton", cells=cells, limit=12)

    def _keep_farm(self) -> str:
        """A plant with stones around it, to be eaten when it is ripe."""
        if "eat_plant" in self.done:
            return ""
        world = self.map
        if self._farm:
            walls = open_walls(world, [self._farm + step for step in STEPS])
            if walls and distance(world.here, self._farm) <= REACH and self._grown < RIPE:
                return self._wall(walls) or (self._gather("stone") if not self.bag["stone"] else "")
            return self._go("farm", cells={self._farm}) if self._grown > RIPE else ""
        if self.bag["stone"] < 4 or self._is_dark() or self._farms >= FARMS:
            return ""
        if world.ground[world.front] == NUMBER["grass"] and world.is_free(world.front):
            return "place_plant" if self.bag["sapling"] else "do"
        return self._go("grass", materials={NUMBER["grass"]}, enter=True, limit=NEAR)
