"""Lists the commands: python -m launch"""

import ast
from pathlib import Path


def commands(folder: Path = Path(__file__).parent) -> dict[str, str]:
    """Each command's name and the first line of its docstring; read, not imported, so that listing is instant."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text())
        if path.stem != "__main__" and any(_is_main_guard(node) for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def _is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def main() -> None:
    found = commands()
    width = max(map(len, found))
    print("Commands, each with presets: `python -m launch.demo laptop` (--help says more)\n")
    for name, summary in found.items():
        print(f"  python -m launch.{name:{width}}  {summary}")


if __name__ == "__main__":
    main()
