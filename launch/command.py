"""What every command shares: presets as sub-commands with typed overrides, and errors as one clear sentence.

python -m launch.train_dynamics laptop --steps 2000
"""

import errno
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from functools import partial
from typing import Any, Literal, NoReturn, TextIO, TypeVar, cast

import tyro
from rich.console import Console
from rich.text import Text
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from launch.checkpoint import IncompleteCheckpoint
from launch.distributed import on_first_process
from launch.memory import describe, ran_out
from tokenizer.shard_format import CorruptSample

Config = TypeVar("Config")
SIZES = {
    "debug": "Seconds: every part once, in its smallest form; nothing is learned.",
    "laptop": "Minutes to hours on two processor cores: learns to see, dream and drive.",
    "carracing": "An hour of training on two processor cores: a world whose dreams hold.",
    "offline_100": "A fixed offline set for agents: 100 episodes of CarRacing of every skill, 16 held out.",
    "offline_300": "A fixed offline set for agents: 300 episodes of CarRacing of every skill, 16 held out.",
    "tasks": "Two tasks of CarRacing, to be fast and to cruise: 160 episodes, half of them no examples for their task.",
    "crafter": "Crafter, told one of ten tasks after another, up to the diamond: from demonstrations of every skill.",
    "crafter_debug": "Crafter in seconds.",
    "minecraft": "Real Minecraft at 384x640 on two processor cores; `make minecraft-video` fetches six recordings.",
    "study": "Agents of one offline CarRacing set: a world model and its agents in an hour and a half on two cores.",
    "study_large": "The same agents of four times the parameters and more clips a step: minutes on one good GPU.",
    "carracing_large": "The study at `study_large`: a seed of WM+BC and Dreamer 4 in minutes on one good GPU.",
    "S": "The size at which speeds are compared.",
    "base": "128x128 video on one good GPU; nobody has trained it to its end yet.",
    "dreamer4": "The paper's size, 400M and 1.6B parameters, for many GPUs; nobody has trained it yet.",
    "paper": "World Models as it was published: 10,000 random episodes, 1,800 generations.",
    "take_cover": "World Models in VizDoom's take-cover, evolved in dreams: 25 minutes on two processor cores.",
    "vmc": "World Models (V, M, C) at laptop size: an hour and a half on two processor cores.",
    "vmc_debug": "World Models in seconds.",
    "vmc_laptop": "World Models' CarRacing.",
    "vmc_paper": "World Models' 10,000 random episodes of CarRacing.",
    "vmc_take_cover": "World Models' take-cover.",
    "vmc_take_cover_debug": "World Models' take-cover in seconds.",
}


def main(
    presets: Mapping[str, Config] | Mapping[str, Mapping[str, Config]],
    function: Callable[[Config], None],
    *,
    description: str | None,
    processes: Literal["all", "first", "one"] = "all",
    given: Mapping[Any, Sequence[str]] | None = None,
) -> None:
    """Runs `function` on the preset that the command line names, with its overrides; exits 2 on a wrong command line.

    A command may have several subjects, each with presets of its own: the subject is the first word, then.
    `processes` says which do the work under `accelerate launch`: all share it, the first does it while the others
    have nothing to do, or one alone is allowed. `given` names the fields of configs that the command takes from the
    data or from another run: they are no options. Set REVERIE_TRACEBACK=1 to see where an error came from.
    """
    chosen, words, program = _of_subject(presets, sys.argv[1:], description)
    _check_preset(chosen, words, program)
    if processes == "one" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _fail(f"this command starts processes of its own: run it with `{_program()}`, not accelerate launch", status=2)
    config = _read(chosen, words, program, description, _configs(given or {}))
    if processes == "first" and not on_first_process():
        return
    _run(function, config)


def main_of_one(kind: type[Config], function: Callable[[Config], None], *, description: str | None) -> None:
    """As `main`, of a command without presets: its first process alone does the work."""
    config = tyro.cli(kind, prog=_program(), description=description)
    if on_first_process():
        _run(function, config)


def _run(function: Callable[[Config], None], config: Config) -> None:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            function(config)
    except KeyboardInterrupt:
        _fail("stopped by Ctrl-C; run the same command again to go on", status=130)
    except Exception as error:
        if not _is_the_users(error) or os.environ.get("REVERIE_TRACEBACK") == "1":
            raise
        _fail(sentence(error), status=1)


def _read(
    presets: Mapping[str, Config],
    words: list[str],
    program: str,
    description: str | None,
    registry: ConstructorRegistry,
) -> Config:
    """The preset with its overrides."""
    try:
        return tyro.extras.overridable_config_cli(
            {name: (SIZES.get(name, f"The {name} preset."), preset) for name, preset in presets.items()},
            prog=program,
            args=words,
            description=description,
            registry=registry,
        )
    except WrongConfig as error:
        _fail(str(error), status=2)


def _is_the_users(error: Exception) -> bool:
    """Whether the user can do something about it; other errors are ours, and keep their traceback."""
    if isinstance(error, ImportError):
        return error.name is None  # a game's adapter names the missing package
    return isinstance(error, ValueError | OSError | CorruptSample) or ran_out(error)


class WrongConfig(Exception):
    """What a config that checks itself says. No ValueError: tyro frames those in its own words."""


def _configs(given: Mapping[Any, Sequence[str]]) -> ConstructorRegistry:
    """How tyro makes configs: with no options of the fields given, for one that is overwritten later would lie."""
    registry, asking = ConstructorRegistry(), set[Any]()

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type in asking or not is_dataclass(info.type) or not isinstance(info.default, info.type):
            return None
        asking.add(info.type)
        whole = ConstructorRegistry.get_struct_spec(info)
        asking.remove(info.type)
        assert isinstance(whole, StructConstructorSpec)
        shown = tuple(field for field in whole.fields if field.name not in given.get(info.type, ()))
        return StructConstructorSpec(instantiate=partial(_changed, info.default), fields=shown)

    return registry


def _changed(config: Any, **fields: Any) -> Any:
    try:
        return replace(config, **fields)
    except ValueError as error:
        raise WrongConfig(str(error)) from error


def sentence(error: Exception) -> str:
    """What went wrong and what to do, without a traceback."""
    if isinstance(error, CorruptSample):
        return f"{error}. Copy the shard again, or delete it and run the command that made it"
    if ran_out(error):
        return f"{describe(error)}. Lower what is held at once: clips, their frames, or the model's sizes"
    if not isinstance(error, OSError) or error.errno is None:
        return str(error) or type(error).__name__
    where = f": {error.filename}" if error.filename is not None else ""
    if error.errno == errno.ENOSPC:
        return f"disk full{where}. Free some space and run the same command again; it goes on from the last checkpoint"
    if error.errno == errno.ENOENT:
        return f"no such file or folder{where}. Check the path"
    return f"{error.strerror}{where}"


def _of_subject(
    presets: Mapping[str, Config] | Mapping[str, Mapping[str, Config]], arguments: list[str], description: str | None
) -> tuple[Mapping[str, Config], list[str], str]:
    """The presets to choose from, the words after the subject (if the command has any), and the program with it."""
    subjects = {name: value for name, value in presets.items() if isinstance(value, Mapping)}
    if not subjects:
        return cast(Mapping[str, Config], presets), arguments, _program()
    subject = arguments[0] if arguments else ""
    if subject in subjects:
        return subjects[subject], arguments[1:], f"{_program()} {subject}"
    choices = f"have: {', '.join(subjects)} (as in `{_program()} {next(iter(subjects))} --help`)"
    if subject in ("-h", "--help"):
        print(f"{description or ''}\nName a subject first, {choices}")
        raise SystemExit(0)
    problem = f"unknown subject {subject!r}" if subject and not subject.startswith("-") else "name a subject first"
    _fail(f"{problem}, {choices}", status=2)


def _check_preset(presets: Mapping[str, Config], arguments: list[str], program: str) -> None:
    """Names the choices when the preset is missing or unknown (tyro would print its usage only)."""
    if "-h" in arguments or "--help" in arguments:
        return
    first = arguments[0] if arguments else ""
    if first not in presets:
        problem = f"unknown preset {first!r}" if first and not first.startswith("-") else "name a preset first"
        _fail(f"{problem}, have: {', '.join(presets)} (as in `{program} {next(iter(presets))}`)", status=2)


def _program() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec is not None else os.path.basename(sys.argv[0])


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings are sentences for the user; others keep Python's form."""
    if issubclass(category, IncompleteCheckpoint):
        Console(stderr=True, soft_wrap=True).print(Text(f"warning: {message}"))
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=sys.stderr)


def _fail(text: str, *, status: int) -> NoReturn:
    rank = int(os.environ.get("RANK", "0"))
    if rank:
        time.sleep(3)  # where the first process failed too, it has said why, and its launcher now ends this one
        text = f"process {rank}: {text}"
    message = Text.assemble(("error: ", "bold red"), text)
    if status == 1:
        message.append(f"\n(in {_program()}; REVERIE_TRACEBACK=1 shows where)", style="dim")
    Console(stderr=True, soft_wrap=True).print(message)
    raise SystemExit(status)
