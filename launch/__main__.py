"""Lists the commands: python -m launch"""

import ast
from pathlib import Path

from rich.console import Console
from rich.table import Table


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
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, summary in commands().items():
        table.add_row(f"python -m launch.{name}", summary)
    console = Console()
    console.print("Commands (add --help to any of them):")
    console.print(table)


if __name__ == "__main__":
    main()
