"""What the README says in Python runs, and what it links to is there."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_python_of_the_readme_runs(pipeline: Path) -> None:
    """In its own order but for the imports, on the smallest models, and for a few frames of the real game."""
    simulate, drive, imports = blocks()
    names: dict[str, Any] = {}
    exec(imports, names)
    exec(simulate.replace('Path("runs/demo")', f"Path({str(pipeline)!r})"), names)
    assert names["picture"].shape == (1, 1, 3, 64, 64) and torch.isfinite(names["picture"]).all()
    steps: list[int] = []

    class Short:
        """The environment, which is given up after three frames."""

        def __init__(self, env: Any) -> None:
            self.env, self.reset = env, env.reset

        def step(self, row: Any) -> Any:
            steps.append(len(row))
            arrival = self.env.step(row)
            if len(steps) == 3:
                object.__setattr__(arrival, "is_last", True)
            return arrival

    make_env = names["make_env"]
    names["make_env"] = lambda *given, **more: Short(make_env(*given, **more))
    exec(drive, names)
    assert steps == [3, 3, 3]


@pytest.mark.parametrize("block", range(3))
def test_a_snippet_is_short(block: int) -> None:
    assert len(blocks()) == 3 and len(blocks()[block].splitlines()) <= 8


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link}
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_every_command_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"-m launch\.(\w+)", README))
    assert len(named) > 10 and not [name for name in named if not (ROOT / f"launch/{name}.py").exists()]
