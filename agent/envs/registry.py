"""Environments by name. A game's packages are imported only when the game is made."""

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


ENVS: dict[str, Factory] = {"CarRacing-v3": _car_racing}


def make_env(name: str, *, stock: bool, action_repeat: int, endless: bool = False) -> Environment:
    """The environment of that name; `stock` where scores are reported, else a faster one of equal pixels.

    An `endless` one goes on where its game would have ended.

    Raises ValueError for an unknown name, ImportError with the install command where its packages are missing.
    """
    if name not in ENVS:
        raise ValueError(f"unknown environment {name!r}, have {sorted(ENVS)}")
    return ENVS[name](stock=stock, action_repeat=action_repeat, endless=endless)
