"""Environments by name. A game's packages are imported only when the game is made."""

from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

from agent.envs.base import Environment


@runtime_checkable
class Factory(Protocol):
    def __call__(self, *, stock: bool, action_repeat: int, endless: bool) -> Environment: ...


def _car_racing(*, stock: bool, action_repeat: int, endless: bool) -> Environment:
    if find_spec("gymnasium") is None or find_spec("Box2D") is None or find_spec("pygame") is None:
        raise ImportError('CarRacing-v3 needs gymnasium with Box2D: pip install "gymnasium[box2d]"')
    from agent.envs.car_racing import CarRacingEnvironment

    return CarRacingEnvironment(stock=stock, action_repeat=action_repeat, endless=endless)


def _take_cover(*, stock: bool, action_repeat: int, endless: bool) -> Environment:
    if endless:
        raise ValueError("VizdoomTakeCover cannot go on where its game ends")
    if find_spec("vizdoom") is None:
        raise ImportError('VizdoomTakeCover needs vizdoom: pip install vizdoom (or -e ".[doom]" in this checkout)')
    from agent.envs.take_cover import TakeCoverEnvironment

    return TakeCoverEnvironment(action_repeat=action_repeat)


def _crafter(*, stock: bool, action_repeat: int, endless: bool) -> Environment:
    if action_repeat != 1 or endless:
        raise ValueError("Crafter takes an action for each of its steps, and ends where its game ends")
    if find_spec("crafter") is None:
        raise ImportError('Crafter needs crafter: pip install crafter numba (or -e ".[crafter]" in this checkout)')
    from agent.envs.crafter import CrafterEnvironment

    return CrafterEnvironment(stock=stock)


ENVS: dict[str, Factory] = {"CarRacing-v3": _car_racing, "Crafter": _crafter, "VizdoomTakeCover": _take_cover}
INSTALLED = "reverie.envs"
"""Group of the entry points by which installed packages tell their environments (docs/your_world.md)."""
GYMNASIUM = "gym:"
"""Begins the name of any environment that gymnasium knows."""
MINERL = ("MineRLHumanSurvival-v0", "MineRLObtainDiamondShovel-v0")
"""They need options: `agent.envs.minerl.MineRLOptions`."""


def make_env(
    name: str, *, stock: bool, action_repeat: int, endless: bool = False, options: object | None = None
) -> Environment:
    """The environment of that name; `stock` where scores are reported, else a faster one of equal pixels.

    An `endless` one goes on where its game would have ended. "gym:ID" is gymnasium's environment of that ID, which is
    always stock; the name may come out of a dataset, so an ID that makes gymnasium import a module is refused.
    `options` are what an environment needs to know that depends on this machine; few take any.

    Raises ValueError for an unknown name, ImportError with the install command where its packages are missing.
    """
    if name in MINERL:
        return _minerl(name, action_repeat=action_repeat, endless=endless, options=options)
    if options is not None:
        raise ValueError(f"{name} takes no options, got {options}")
    if name.startswith(GYMNASIUM):
        return _gymnasium(name.removeprefix(GYMNASIUM), action_repeat=action_repeat, endless=endless)
    if name in ENVS:
        return ENVS[name](stock=stock, action_repeat=action_repeat, endless=endless)
    installed = _installed()
    if name not in installed:
        raise ValueError(
            f"unknown environment {name!r}, have {sorted({*ENVS, *MINERL, *installed})}, "
            "and gym:ID for any of gymnasium"
        )
    made: Environment = installed[name].load()(stock=stock, action_repeat=action_repeat, endless=endless)
    return made


def is_known(name: str) -> bool:
    """Whether there may be such an environment; of gymnasium's only `make_env` knows."""
    return name.startswith(GYMNASIUM) or name in ENVS or name in MINERL or name in _installed()


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=INSTALLED)}


def _gymnasium(game: str, *, action_repeat: int, endless: bool) -> Environment:
    if ":" in game:
        raise ValueError(
            f"gym:{game} would import a module: let its package register the environment when gymnasium is imported "
            "(an entry point of the group gymnasium.envs), and name it by its ID alone"
        )
    if endless:
        raise ValueError(f"gym:{game} cannot go on where its game ends")
    from agent.envs.any_gymnasium import GymnasiumEnvironment

    return GymnasiumEnvironment(game, action_repeat=action_repeat)


def _minerl(name: str, *, action_repeat: int, endless: bool, options: object | None) -> Environment:
    from agent.envs.minerl import ADVICE, MineRLEnvironment, MineRLOptions

    if action_repeat != 1 or endless:
        raise ValueError(f"{name} takes an action for each of its steps, and ends where its game ends")
    if not isinstance(options, MineRLOptions):
        raise ValueError(
            f"{name} needs an interpreter of its own, which only launch.evaluate_minecraft gives; {ADVICE}"
        )
    return MineRLEnvironment(name, options)
