"""What happens in Minecraft, out of the game's own statistics: 20 tasks, each with the counters that pay for it.

The game counts "minecraft.mine_block:minecraft.oak_log" and the like, in recordings as in MineRL. Here the counter is
called "mine_block:oak_log".
"""

from collections.abc import Mapping

from agent.ladder import increases

WOODS = ("acacia", "birch", "dark_oak", "jungle", "oak", "spruce")
SOURCES: dict[str, tuple[str, ...]] = {
    "mine_log": tuple(f"mine_block:{wood}_log" for wood in WOODS),
    "mine_cobblestone": ("mine_block:stone", "mine_block:cobblestone"),
    "mine_iron_ore": ("mine_block:iron_ore",),
    "mine_coal": ("mine_block:coal_ore",),
    "mine_diamond": ("mine_block:diamond_ore",),
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
OBTAINED = {f"obtain_{item}": (f"pickup:{item}",) for item in ("cobblestone", "iron_ore", "diamond")}
"""Events that are no tasks, for milestones: a block that the wrong tool breaks is mined, and gives nothing."""
TASKS = tuple(SOURCES)
EVENT_OF = {counter: event for event, counters in {**SOURCES, **OBTAINED}.items() for counter in counters}
COUNTERS = tuple(EVENT_OF)


def counter_name(statistic: str) -> str:
    """Of "minecraft.mine_block:minecraft.oak_log" that is "mine_block:oak_log"."""
    return ":".join(part.removeprefix("minecraft.") for part in statistic.split(":"))


def events(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """How often each event happened between two states of the counters; of items, not of strokes."""
    happened: dict[str, int] = {}
    for counter, count in increases(before, after).items():
        if counter in EVENT_OF:
            event = EVENT_OF[counter]
            happened[event] = happened.get(event, 0) + count
    return happened
