"""What happens in Minecraft, out of the game's own statistics: 20 tasks, each with the counters that pay for it.

The game counts "minecraft.mine_block:minecraft.oak_log" and the like, in recordings as in MineRL. Here the counter is
called "mine_block:oak_log".
"""

from collections.abc import Mapping

from agent.ladder import increases

WOODS = ("acacia", "birch", "dark_oak", "jungle", "oak", "spruce")
SOURCES: dict[str, tuple[str, ...]] = {
    "mine_log": tuple(f"mine_block:{wood}_log" for wood in WOODS),
    # Not by the block: stone and ore that the wrong tool breaks give nothing.
    "mine_cobblestone": ("pickup:cobblestone",),
    "mine_iron_ore": ("pickup:iron_ore",),
    "mine_coal": ("pickup:coal",),
    "mine_diamond": ("pickup:diamond",),
    "craft_planks": tuple(f"craft_item:{wood}_planks" for wood in WOODS),
    "craft_stick": ("craft_item:stick",),
    "craft_crafting_table": ("craft_item:crafting_table",),
    "craft_furnace": ("craft_item:furnace",),
    "craft_iron_ingot": ("craft_item:iron_ingot",),  # the game counts smelting as crafting
    "craft_wooden_pickaxe": ("craft_item:wooden_pickaxe",),
    "craft_stone_pickaxe": ("craft_item:stone_pickaxe",),
    "craft_iron_pickaxe": ("craft_item:iron_pickaxe",),
    "open_crafting_table": ("custom:interact_with_crafting_table",),
    "open_furnace": ("custom:interact_with_furnace",),
    "place_crafting_table": ("use_item:crafting_table",),
    "place_furnace": ("use_item:furnace",),
    "use_wooden_pickaxe": ("use_item:wooden_pickaxe",),
    "use_stone_pickaxe": ("use_item:stone_pickaxe",),
    "use_iron_pickaxe": ("use_item:iron_pickaxe",),
}
"""Task -> the counters whose rise is its event."""
TASKS = tuple(SOURCES)
COUNTERS = tuple(counter for counters in SOURCES.values() for counter in counters)
_TASK_OF = {counter: task for task, counters in SOURCES.items() for counter in counters}


def counter_name(statistic: str) -> str:
    """Of "minecraft.mine_block:minecraft.oak_log" that is "mine_block:oak_log"."""
    return ":".join(part.removeprefix("minecraft.") for part in statistic.split(":"))


def events(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """How often each task's event happened between two states of the counters; of items, not of strokes."""
    happened: dict[str, int] = {}
    for counter, count in increases(before, after).items():
        if counter in _TASK_OF:
            task = _TASK_OF[counter]
            happened[task] = happened.get(task, 0) + count
    return happened
