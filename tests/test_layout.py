"""The structure of the project is tested, not promised."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ["tokenizer", "dynamics", "agent", "launch"]
"""Each may import itself and those before it."""


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, also inside functions, with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield ("." * node.level) + (node.module or ""), node.lineno


def test_imports_point_one_way() -> None:
    wrong = []
    for rank, package in enumerate(LAYERS):
        for path in sources(package):
            for name, line in imports(path):
                top = name.split(".")[0]
                if top in LAYERS[rank + 1 :] or top == "tests" or name.startswith("."):
                    wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_there_are_exactly_four_packages_beside_the_tests() -> None:
    holders = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("[!.]*/**/*.py")}
    assert holders - {"runs"} == {*LAYERS, "tests"}  # git ignores it
    assert not list(ROOT.glob("*.py"))


@pytest.mark.parametrize("package", LAYERS)
def test_an_imported_package_is_this_checkouts(package: str) -> None:
    file = importlib.import_module(package).__file__
    assert file is not None
    assert Path(file).is_relative_to(ROOT / package)


def test_no_command_hides_a_module_of_the_standard_library() -> None:
    assert not {path.stem for path in (ROOT / "launch").glob("*.py")} & sys.stdlib_module_names


def test_tests_are_found_before_a_strangers() -> None:
    """opensimplex, which Crafter needs, installs a package `tests`: it hides a folder that is none itself, and worker
    processes, which import by the path alone, found its tests in place of ours."""
    assert list((ROOT / "tests").rglob("__init__.py")) == [ROOT / "tests/__init__.py"]


def quiet_violations(path: Path) -> Iterator[str]:
    for name, line in imports(path):
        if name.split(".")[0] == "logging":
            yield f"{path.relative_to(ROOT)}:{line} imports logging"
    tree = ast.parse(path.read_text())
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for node in ast.walk(tree):
        name = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
        used = ast.unparse(parents[node]) if isinstance(node, ast.Attribute) else ""
        allowed = "agent/envs" in path.as_posix() and used == "os.environ.setdefault"
        called = isinstance(node, ast.Name) and isinstance(parents[node], ast.Call)
        if (name in ("os.environ", "os.getenv", "sys.argv") and not allowed) or (name == "print" and called):
            yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} uses {name}"


@pytest.mark.parametrize("package", LAYERS[:-1])
def test_the_lower_packages_read_no_surroundings_and_say_nothing(package: str) -> None:
    wrong = [violation for path in sources(package) for violation in quiet_violations(path)]
    assert not wrong, "\n".join(wrong)
