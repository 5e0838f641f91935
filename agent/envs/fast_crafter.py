"""Crafter with the stock game's pixels, rewards and ends, played faster.

Stock looks at each object of the world three times a step, draws each cell of the view anew, and counts the cells of
each chunk three times whenever it lets creatures come and go. Here objects beyond its reach are left out by one look at
a map of them, pictures of cells and items are kept, and so is what chunks are made of until a cell of them changes.
"""

from collections import defaultdict
from typing import Any

import numpy as np
from crafter import constants, engine
from numpy.typing import NDArray

PLAYER = 1
"""Number of the player among the objects: the first that is added."""
VOID = 127
"""Grey level of what is outside of the world."""


class OrderedSet(dict[Any, None]):
    """A set that is gone through in the order in which things came into it."""

    def add(self, thing: Any) -> None:
        self[thing] = None

    def remove(self, thing: Any) -> None:
        del self[thing]


class RepeatableWorld(engine.World):  # type: ignore[misc]
    """Stock, but that a seed is an episode: stock draws creatures out of sets, whose order is that of addresses."""

    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        self._chunks: defaultdict[Any, OrderedSet] = defaultdict(OrderedSet)


class FastWorld(RepeatableWorld):
    """`reach` is how far from the player objects move, in steps; `margin` the cells around the world."""

    def __init__(self, area: tuple[int, int], *, chunk_size: tuple[int, int], reach: int, margin: int) -> None:
        self.reach, self.margin = reach, margin
        super().__init__(area, constants.materials, chunk_size)

    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        width, height = (size + 2 * self.margin for size in self.area)
        inside = np.s_[self.margin : width - self.margin, self.margin : height - self.margin]
        self.materials = np.zeros((width, height), np.uint8)
        """With the margin, [x, y]."""
        self.numbers = np.zeros((width, height), np.uint32)
        """Of the objects."""
        self._mat_map, self._obj_map = self.materials[inside], self.numbers[inside]
        self._masks: dict[Any, NDArray[np.bool_]] = {}

    @property
    def objects(self) -> list[Any]:
        """Those near enough to the player to do anything, in stock's order."""
        x, y = self._objects[PLAYER].pos.tolist()
        reach = self.reach + 1  # the player moves before the others
        near = self._obj_map[max(0, x - reach) : x + reach + 1, max(0, y - reach) : y + reach + 1]
        return [self._objects[number] for number in sorted(near[near > 0].tolist())]

    def __getitem__(self, pos: Any) -> tuple[str | None, Any]:
        x, y = int(pos[0]), int(pos[1])
        if not (0 <= x < self.area[0] and 0 <= y < self.area[1]):
            return None, None
        return self._mat_names[self._mat_map.item(x, y)], self._objects[self._obj_map.item(x, y)]

    def __setitem__(self, pos: Any, material: str) -> None:
        super().__setitem__(pos, material)
        if self._masks:
            chunk = self.chunk_key(pos)
            for name in constants.materials:
                self._masks.pop((*chunk, name), None)

    def mask(self, *chunk_and_material: Any) -> NDArray[np.bool_]:
        if chunk_and_material not in self._masks:
            self._masks[chunk_and_material] = super().mask(*chunk_and_material)
        return self._masks[chunk_and_material]


class FastLocalView(engine.LocalView):  # type: ignore[misc]
    """The world around the player, put together from pictures of cells."""

    def __init__(self, world: FastWorld, textures: Any, grid: Any) -> None:
        super().__init__(world, textures, grid)
        self._cells: dict[tuple[int, str], NDArray[np.uint8]] = {}
        """Of each material with an object on it."""
        self._bare = np.zeros((0, 0, 0, 3), np.uint8)
        """Of each material, by its number."""

    def __call__(self, player: Any, unit: Any) -> NDArray[Any]:
        world, (width, height) = self._world, tuple(unit.tolist())
        if self._bare.shape[1:3] != (width, height):
            self._cells, self._bare = {}, self._draw_bare(unit)
        x, y = (player.pos - self._offset + world.margin).tolist()
        seen = np.s_[x : x + int(self._grid[0]), y : y + int(self._grid[1])]
        ground, numbers = world.materials[seen], world.numbers[seen]
        canvas = self._bare[ground].transpose(0, 2, 1, 3, 4).reshape(*(self._grid * unit), 3)
        for i, j in np.argwhere(numbers).tolist():
            cell = self._cell(ground.item(i, j), world._objects[numbers.item(i, j)].texture, unit)
            canvas[i * width : (i + 1) * width, j * height : (j + 1) * height] = cell
        lit: NDArray[Any] = self._light(canvas, world.daylight)
        if player.sleeping:
            lit = self._sleep(lit)
        return lit

    def _draw_bare(self, unit: Any) -> NDArray[np.uint8]:
        void = np.full((*unit, 3), VOID, np.uint8)
        return np.stack([void, *(self._textures.get(name, unit)[..., :3] for name in constants.materials)])

    def _cell(self, material: int, texture: str, unit: Any) -> NDArray[np.uint8]:
        if (material, texture) not in self._cells:
            cell = self._bare[material].copy()
            engine._draw_alpha(cell, (0, 0), self._textures.get(texture, unit))
            self._cells[material, texture] = cell
        return self._cells[material, texture]


class FastItemView(engine.ItemView):  # type: ignore[misc]
    """The bag, put together from pictures of so many of an item."""

    def __init__(self, textures: Any, grid: Any) -> None:
        super().__init__(textures, grid)
        self._cells: dict[tuple[str, int, int], NDArray[np.uint8]] = {}

    def __call__(self, inventory: dict[str, int], unit: Any) -> NDArray[np.uint8]:
        width, height = unit.tolist()
        canvas = np.zeros((*(self._grid * unit), 3), np.uint8)
        for index, (item, amount) in enumerate(inventory.items()):
            if amount >= 1:
                i, j = index % int(self._grid[0]), index // int(self._grid[0])
                cell = self._cell(item, amount, unit)
                canvas[i * width : (i + 1) * width, j * height : (j + 1) * height] = cell
        return canvas

    def _cell(self, item: str, amount: int, unit: Any) -> NDArray[np.uint8]:
        key = (item, amount, int(unit[0]))
        if key not in self._cells:
            cell = np.zeros((*unit, 3), np.uint8)
            self._item(cell, 0, item, unit)
            self._amount(cell, 0, amount, unit)
            self._cells[key] = cell
        return self._cells[key]
