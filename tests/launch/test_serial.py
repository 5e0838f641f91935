from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from dynamics.actions import ActionSpace
from launch.serial import from_json, to_json


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: tuple[int, int] = (64, 64)
    rate: float = 1.0
    kind: Literal["small", "large"] = "small"


@dataclass(frozen=True, kw_only=True)
class Outer:
    run: Path
    inner: Inner = field(default_factory=Inner)
    space: ActionSpace | None = None
    names: tuple[str, ...] = ()
    scales: dict[str, float] = field(default_factory=dict)


def test_a_config_comes_back_as_it_was() -> None:
    space = ActionSpace(continuous=("steer",), categorical=(("camera", 121),))
    config = Outer(run=Path("runs/a"), inner=Inner(rate=2), space=space, names=("a", "b"), scales={"a": 0.5})
    assert from_json(Outer, to_json(config)) == config
    assert from_json(Outer, to_json(Outer(run=Path("b")))) == Outer(run=Path("b"))


def test_a_field_that_was_added_later_takes_its_default() -> None:
    assert from_json(Inner, {"rate": 3.0}) == Inner(rate=3.0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"run": "a", "depth": 3}, "field 'depth' that Outer does not know"),
        ({"run": "a", "inner": {"kind": "huge"}}, r"config.inner.kind is 'huge', not one of \['small', 'large'\]"),
        ({"run": "a", "inner": {"size": [64]}}, "config.inner.size has 1 entries, expected 2"),
        ({"run": 3}, "config.run is 3"),
        ({}, "missing"),
    ],
)
def test_what_does_not_fit_is_named(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(Outer, data)
