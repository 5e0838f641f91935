"""How a player of Crafter gets about by what it remembers: to what it looks for, or to where nothing was seen yet.

A way is kept for some steps, so that one is not looked for in each.
"""

from collections.abc import Collection, Container, Mapping

from agent.crafter_map import DOWN, FREE, LEFT, NUMBER, RIGHT, STEPS, UP, CrafterMap
from agent.envs.crafter_sight import Sight

PRESS = {LEFT: "move_left", RIGHT: "move_right", UP: "move_up", DOWN: "move_down"}
TOOLS = {"stone": "wood_pickaxe", "coal": "wood_pickaxe", "iron": "stone_pickaxe", "diamond": "iron_pickaxe"}
"""Material -> what it takes to get it."""
AGE = 12
"""Steps for which a way is followed, if nothing comes in between."""


class Walker:
    """A player with its bag, its map, and the way that it is on."""

    def __init__(self) -> None:
        self.map = CrafterMap()
        self.bag: Mapping[str, int] = {}
        self.steps = 0
        self._way: list[int] = []
        self._aim: object = None
        self._age = 0
        self._hopeless: dict[object, int] = {}
        """Aim -> step until which no way to it is looked for again."""

    def see(self, sight: Sight) -> None:
        self.map.see(sight)
        self.bag, self.steps = sight.bag, self.steps + 1

    def use(self, step: int, action: str = "do") -> str:
        """On the next cell in this direction, which cannot be entered."""
        return action if self.map.facing == step else PRESS[step]

    def enter(self, cell: int) -> str:
        """The next action to come into a cell beside the player, which may have to be dug away or bridged."""
        step = cell - self.map.here
        if self.map.is_free(cell):
            return PRESS[step]
        water = self.map.ground[cell] == NUMBER["water"] and cell not in self.map.things
        return self.use(step, "place_stone" if water else "do")

    def prices(self) -> list[int]:
        """Steps that it takes to come into a cell of each material, by its number; 0 where there is no way."""
        prices = [0] * (len(NUMBER) + 1)
        for number in FREE:
            prices[number] = 1
        prices[NUMBER["tree"]] = 3
        prices[NUMBER["water"]] = 5 if self.bag["stone"] else 0
        for material, tool in TOOLS.items():
            prices[NUMBER[material]] = 2 if self.bag[tool] else 0
        return prices

    def go(
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
        prices, world = self.prices(), self.map
        new = any(number in materials for number in world.news)
        keeps = (
            self._is_on_the_way_to(aim)
            and not new
            and (self._way[-1] in cells or world.ground[self._way[-1]] in materials)
            and (len(self._way) == 1 or world.price(self._way[0], prices))
        )
        if not keeps:
            if self.steps < self._hopeless.get(aim, 0) and not new:
                return ""
            self._set_out(aim, world.way(prices, materials=materials, cells=cells, avoid=avoid, limit=limit))
        if not self._way:
            self._hopeless[aim] = self.steps + AGE
            return ""
        if len(self._way) == 1 and not enter:
            return self.use(self._way[0] - world.here, action)
        return self.enter(self._way[0])

    def explore(self, liked: Container[int]) -> str:
        """The next action towards what was not seen yet, of liked materials rather; empty if all was seen."""
        prices, world = self.prices(), self.map
        if not self._is_on_the_way_to(liked) or not world.price(self._way[0], prices):
            self._set_out(liked, world.way_to_unknown(prices, liked))
        return self.enter(self._way[0]) if self._way else ""

    def _is_on_the_way_to(self, aim: object) -> bool:
        """Whether the way of the last steps leads on from here, which is asked once a step; it also takes the step."""
        if self._way and self._way[0] == self.map.here:
            self._way.pop(0)
        self._age += 1
        on_it = self._way and self._aim == aim and self._age < AGE
        return bool(on_it) and self._way[0] - self.map.here in STEPS

    def _set_out(self, aim: object, way: list[int]) -> None:
        self._way, self._aim, self._age = way, aim, 0
