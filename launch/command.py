"""What every command shares: presets as sub-commands with typed overrides, and errors as one clear sentence.

python -m launch.train_dynamics laptop --steps 2000
"""

import errno
import os
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

import tyro
from rich.console import Console
from rich.text import Text

Config = TypeVar("Config")


def main(presets: Mapping[str, Config], function: Callable[[Config], None], *, description: str | None) -> None:
    """Runs `function` on the preset that the command line names, with its overrides; exits 2 on a wrong command line.

    Set REVERIE_TRACEBACK=1 to see where an error came from.
    """
    _check_preset(presets, sys.argv[1:])
    try:
        config = tyro.extras.overridable_config_cli(
            {name: (f"the {name} preset", preset) for name, preset in presets.items()},
            prog=_program(),
            description=description,
        )
    except ValueError as error:  # from a config that checks itself
        _fail(str(error), status=2)
    try:
        function(config)
    except KeyboardInterrupt:
        _fail("stopped by Ctrl-C; run the same command again to go on", status=130)
    except (ValueError, OSError) as error:
        if os.environ.get("REVERIE_TRACEBACK") == "1":
            raise
        _fail(sentence(error), status=1)


def sentence(error: ValueError | OSError) -> str:
    """What went wrong and what to do, without a traceback."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error) or type(error).__name__
    where = f": {error.filename}" if error.filename is not None else ""
    if error.errno == errno.ENOSPC:
        return f"disk full{where}. Free some space and run the same command again; it goes on from the last checkpoint"
    if error.errno == errno.ENOENT:
        return f"no such file or folder{where}. Check the path"
    return f"{error.strerror}{where}"


def _check_preset(presets: Mapping[str, Config], arguments: list[str]) -> None:
    """Names the choices when the preset is missing or unknown (tyro would print its usage only)."""
    if "-h" in arguments or "--help" in arguments:
        return
    first = arguments[0] if arguments else ""
    if first not in presets:
        problem = f"unknown preset {first!r}" if first and not first.startswith("-") else "name a preset first"
        _fail(f"{problem}, have: {', '.join(presets)} (as in `{_program()} {next(iter(presets))}`)", status=2)


def _program() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec is not None else os.path.basename(sys.argv[0])


def _fail(text: str, *, status: int) -> NoReturn:
    message = Text.assemble(("error: ", "bold red"), text)
    if status == 1:
        message.append(f"\n(in {_program()}; REVERIE_TRACEBACK=1 shows where)", style="dim")
    Console(stderr=True, soft_wrap=True).print(message)
    raise SystemExit(status)
