"""What a player of Crafter remembers of the world that it saw, and the ways through it.

A cell is one number, so that a step is a number too. What was never in view is unknown: no way leads through it.
"""

from collections import deque
from collections.abc import Callable, Collection, Container, Sequence
from heapq import heappop, heappush

from agent.envs.crafter_sight import MATERIALS, MIDDLE, VIEW, WORLD, Cell, Sight

MARGIN = 14
"""Cells around the world, which may be looked at."""
STRIDE = WORLD[1] + 2 * MARGIN
NUMBER = {name: number for number, name in enumerate(MATERIALS)}
UNKNOWN = len(MATERIALS)
LEFT, RIGHT, UP, DOWN = -STRIDE, STRIDE, -1, 1
STEPS = (LEFT, RIGHT, UP, DOWN)
AROUND = tuple(x + y for x in (LEFT, 0, RIGHT) for y in (UP, 0, DOWN))
"""Of the nine cells in whose middle one stands: those within which a table serves."""
FREE = frozenset(NUMBER[name] for name in ("grass", "sand", "path"))
"""On which one walks and puts things."""
FOES = ("zombie", "skeleton")
_BESIDE = tuple((1, aside) for aside in (0, *STEPS))
FEARED = {"zombie": _BESIDE, "skeleton": (*_BESIDE, *((far, 0) for far in range(2, 6)))}
"""Around them: so many steps in each direction, and one aside."""
LAVA = NUMBER["lava"]
CORNER = MIDDLE[0] * STRIDE + MIDDLE[1]

GAIN = 0.25
"""How many steps an unknown cell that comes into view is worth."""
LIKED = 6
"""How many steps more one goes to where the ground is liked better."""


def step_of(direction: Cell) -> int:
    return direction[0] * STRIDE + direction[1]


def distance(a: int, b: int) -> int:
    """In steps, if nothing stood in the way."""
    return abs(a // STRIDE - b // STRIDE) + abs(a % STRIDE - b % STRIDE)


class CrafterMap:
    def __init__(self) -> None:
        self.ground = [UNKNOWN] * (STRIDE * (WORLD[0] + 2 * MARGIN))
        """Number of each cell's material."""
        self.things: dict[int, str] = {}
        """What is in view now."""
        self.cows: set[int] = set()
        """Where cows were last seen."""
        self.here, self.facing = 0, DOWN
        self.news: set[int] = set()
        """Materials that were seen in the last step where they had not been."""
        self.places: dict[int, set[int]] = {NUMBER[name]: set() for name in ("table", "furnace")}
        """Cells of these materials."""
        self._hot: set[int] = set()
        """Beside lava."""
        self.feared: set[int] = set()
        """Near a zombie, or where a skeleton's arrows come."""

    def see(self, sight: Sight) -> None:
        self.here = (sight.position[0] + MARGIN) * STRIDE + sight.position[1] + MARGIN
        self.facing = step_of(sight.facing)
        first = self.here - CORNER
        self.news.clear()
        for i, column in enumerate(sight.ground.tolist()):
            start = first + i * STRIDE
            if self.ground[start : start + VIEW[1]] != column:
                for cell, material in enumerate(column, start=start):
                    if self.ground[cell] != material:
                        self._learn(cell, material)
        self.things = {first + i * STRIDE + j: name for (i, j), name in sight.things.items()}
        self.feared = {
            cell + step * far + aside
            for cell, name in self.things.items()
            if name in FOES
            for step in STEPS
            for far, aside in FEARED[name]
        }
        self.cows = {cell for cell in self.cows if not self.in_view(cell)}
        self.cows.update(cell for cell, name in self.things.items() if name == "cow")

    def _learn(self, cell: int, material: int) -> None:
        before = self.ground[cell]
        self.ground[cell] = material
        self.news.add(material)
        if before in self.places:
            self.places[before].discard(cell)
        if material in self.places:
            self.places[material].add(cell)
        if material == LAVA:
            self._hot.update(cell + step for step in STEPS)

    def in_view(self, cell: int) -> bool:
        x, y = cell // STRIDE - self.here // STRIDE, cell % STRIDE - self.here % STRIDE
        return abs(x) <= MIDDLE[0] and abs(y) <= MIDDLE[1]

    @property
    def front(self) -> int:
        """The cell in front of the player."""
        return self.here + self.facing

    def is_open(self, cell: int) -> bool:
        """Whether a creature may come there."""
        return self.ground[cell] in FREE and not self.things.get(cell, "").startswith("plant")

    def is_free(self, cell: int) -> bool:
        """Whether one may step or put something there."""
        return self.ground[cell] in FREE and cell not in self.things

    def price(self, cell: int, prices: Sequence[int]) -> int:
        """Steps that it takes to come into this cell from the next one; 0 where there is no way. `prices` are those of
        the materials."""
        price = prices[self.ground[cell]]
        if not price or cell in self.things and self.things[cell].startswith("plant"):
            return 0
        return price + 4 * (cell in self.things) + 2 * (cell in self._hot) + 3 * (cell in self.feared)

    def way(
        self,
        prices: Sequence[int],
        *,
        materials: Collection[int] = (),
        cells: Collection[int] = (),
        avoid: Container[int] = (),
        limit: int = 300,
    ) -> list[int]:
        """The cheapest way to the nearest of these cells, or of cells of these materials: from the next cell to that
        one, which need not be one that can be entered. None of more than `limit` steps, and empty where there is none.
        """

        def is_goal(cell: int) -> bool:
            return cell in cells or self.ground[cell] in materials

        if not cells and not any(number in self.ground for number in materials):
            return []
        came, found = self._search(prices, lambda cell, _: cell != self.here and is_goal(cell), is_goal, avoid, limit)
        return _back(came, found) if found else []

    def way_to_unknown(self, prices: Sequence[int], liked: Container[int]) -> list[int]:
        """To where much comes into view for the steps that it takes, of liked ground rather; empty if all was seen."""
        best, score = 0, 1e9

        def look(cell: int, cost: int) -> bool:
            nonlocal best, score
            if cost > score + GAIN * VIEW[0] * VIEW[1] + LIKED:
                return True
            if any(self.ground[cell + step] == UNKNOWN for step in STEPS):
                found = cost - GAIN * self._unknown_from(cell) - LIKED * (self.ground[cell] in liked)
                if found < score and cell != self.here:
                    best, score = cell, found
            return False

        came, _ = self._search(prices, look, lambda cell: False, (), 300)
        return _back(came, best) if best else []

    def _unknown_from(self, cell: int) -> int:
        """How many cells of the view from there were never seen."""
        first = cell - CORNER
        starts = range(first, first + VIEW[0] * STRIDE, STRIDE)
        return sum(self.ground[start : start + VIEW[1]].count(UNKNOWN) for start in starts)

    def _search(
        self,
        prices: Sequence[int],
        ends: Callable[[int, int], bool],
        is_goal: Callable[[int], bool],
        avoid: Container[int],
        limit: int,
    ) -> tuple[dict[int, int], int]:
        """Dijkstra's, from here until `ends` says so of a cell and its cost: from where each cell was come to, and that
        one, or 0."""
        costs, came, heap = {self.here: 0}, {self.here: self.here}, [(0, self.here)]
        while heap:
            cost, cell = heappop(heap)
            if cost > costs[cell]:
                continue
            if ends(cell, cost):
                return came, cell
            for step in STEPS:
                to = cell + step
                price = self.price(to, prices) if to not in avoid else 0
                if not price:
                    if not is_goal(to):
                        continue
                    price = 1
                total = cost + price
                if total <= limit and total < costs.get(to, limit + 1):
                    costs[to], came[to] = total, cell
                    heappush(heap, (total, to))
        return came, 0

    def turn_to(self, targets: Container[int], *, limit: int = 24) -> int:
        """The step to press next on the shortest way to stand facing one of these cells; 0 where there is none.

        Who presses towards a free cell goes there; towards another one, turns. It must not face one of them already.
        """
        start = (self.here, self.facing)
        first: dict[tuple[int, int], int] = {start: 0}
        queue = deque([(start, 0)])
        while queue:
            (cell, facing), length = queue.popleft()
            if length and cell + facing in targets:
                return first[cell, facing]
            if length == limit:
                continue
            for step in STEPS:
                to = cell + step
                if self.ground[to] == LAVA:
                    continue
                state = (to, step) if self.is_free(to) else (cell, step)
                if state not in first:
                    first[state] = first[cell, facing] or step
                    queue.append((state, length + 1))
        return 0


def _back(came: dict[int, int], cell: int) -> list[int]:
    way = []
    while came[cell] != cell:
        way.append(cell)
        cell = came[cell]
    return way[::-1]
