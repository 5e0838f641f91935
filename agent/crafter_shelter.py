"""Rooms of two cells in Crafter, in which nothing can reach the player: where there is one, and what is left to close.

Who presses towards a free cell goes there in place of turning, so from within only an end of the room can be closed,
on coming from its other cell. Its sides must be solid, or be closed from without.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.crafter_map import DOWN, FREE, LAVA, NUMBER, RIGHT, STEPS, STRIDE, UNKNOWN, CrafterMap, distance

OPEN = FREE | {UNKNOWN, LAVA}
"""Not to be had for a wall."""
DIGGABLE = NUMBER["stone"]
WATER, WATER_STEPS = NUMBER["water"], 4
"""A room in which one can drink is worth as many steps."""
SIDE_STEPS = 6
"""That it takes to close a side, about; an end takes 2."""


@dataclass(frozen=True)
class Room:
    """From cell `one` a step to the other."""

    one: int
    step: int

    @property
    def cells(self) -> tuple[int, int]:
        return self.one, self.one + self.step

    @property
    def ends(self) -> tuple[int, int]:
        """Beside `one` and beside the other."""
        return self.one - self.step, self.one + 2 * self.step

    @property
    def sides(self) -> tuple[int, int, int, int]:
        across = RIGHT + DOWN - self.step
        return self.one - across, self.one + across, self.cells[1] - across, self.cells[1] + across


def best_room(world: CrafterMap, *, stones: int, reach: int) -> Room | None:
    """The one that is closed in the fewest steps, of those within `reach`; None where none can be with these stones."""
    best, score = None, 1e9
    for room in _rooms(world, reach):
        if not all(_fits(world, cell) for cell in room.cells):
            continue
        sides = sum(world.ground[cell] in OPEN for cell in room.sides)
        ends = sum(world.ground[cell] in OPEN for cell in room.ends)
        if any(world.ground[cell] in (UNKNOWN, LAVA) for cell in (*room.sides, *room.ends)):
            continue
        inside = world.here in room.cells
        dug = sum(world.ground[cell] == DIGGABLE for cell in room.cells)
        needed = sides + max(ends, 0 if inside else 1)
        water = any(world.ground[cell] == WATER for cell in (*room.sides, *room.ends))
        found = distance(world.here, room.one) + SIDE_STEPS * sides + 2 * ends + 2 * dug - WATER_STEPS * water
        if needed <= stones + dug and found < score:
            best, score = room, found
    return best


def _rooms(world: CrafterMap, reach: int) -> Iterator[Room]:
    for x in range(-reach, reach + 1):
        for y in range(abs(x) - reach, reach - abs(x) + 1):
            for step in (RIGHT, DOWN):
                yield Room(world.here + x * STRIDE + y, step)


def _fits(world: CrafterMap, cell: int) -> bool:
    """Whether it may be a cell of a room."""
    clear = cell == world.here or cell not in world.things and cell not in world.feared
    return clear and (world.ground[cell] in FREE or world.ground[cell] == DIGGABLE)


def open_walls(world: CrafterMap, cells: Sequence[int]) -> list[int]:
    """Those of them that a stone must go to."""
    return [cell for cell in cells if world.is_open(cell)]


def is_closed(world: CrafterMap) -> bool:
    """Whether nothing can come to the player from where it is."""
    seen, cells = {world.here}, [world.here]
    while cells:
        if len(seen) > 2:
            return False
        cell = cells.pop()
        for to in (cell + step for step in STEPS):
            if to not in seen and world.ground[to] in OPEN and not world.things.get(to, "").startswith("plant"):
                seen.add(to)
                cells.append(to)
    return len(seen) <= 2
