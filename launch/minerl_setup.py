"""What MineRL needs of this machine, and a virtual environment that has it (`python -m launch.doctor --setup minerl`).

MineRL 1.0 is of 2022: packages of that time, a JDK 8, and a build that downloads Minecraft.
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SOURCE = "git+https://github.com/minerllabs/minerl"
PYTHONS = ("python3.9", "python3.8", "python3.10")
HOSTS = ("github.com", "services.gradle.org", "libraries.minecraft.net")
"""Of MineRL's source, of the program that builds it, and of Minecraft."""
SECONDS = 10.0
IMPORT_SECONDS = 120.0
"""For packages that were just installed, on a disk that may be slow."""
Ask = Callable[[Sequence[str | Path]], str | None]


BEFORE_ALL = ("JDK 8", "git", "source", "old Python")
"""Needs without which no installation is begun: an environment that another Python made stays of that one."""


class Need(NamedTuple):
    name: str
    found: str
    """Empty where it is missing."""
    advice: str
    """What is missing and how to get it, in one sentence."""


def ask(command: Sequence[str | Path], *, seconds: float = SECONDS) -> str | None:
    """What a program says; None where it is missing or does not work."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else f"{done.stdout}{done.stderr}".strip()


def reaches(host: str) -> bool:
    try:
        socket.create_connection((host, 443), timeout=SECONDS).close()
    except OSError:
        return False
    return True


def needs(
    python: Path | None,
    source: str,
    *,
    ask: Ask = ask,
    reaches: Callable[[str], bool] = reaches,
    variables: Mapping[str, str] = os.environ,
) -> list[Need]:
    """Everything, in the order in which it is needed."""
    return [
        _java(ask, variables),
        _display(ask, variables),
        _git(ask, source),
        _python(ask, python),
        *(_host(host, reaches) for host in HOSTS),
    ]


def _java(ask: Ask, variables: Mapping[str, str]) -> Need:
    home = variables.get("JAVA_HOME")
    said = ask([Path(home, "bin/javac") if home else "javac", "-version"]) or ""
    version = re.search(r"javac (\S+)", said)
    if version is not None and version[1].startswith("1.8."):
        return Need("JDK 8", version[1], "")
    other = f"the one here is {version[1]}" if version is not None else "there is no javac"
    return Need(
        "JDK 8",
        "",
        f"Minecraft is built and run by a JDK 8, and {other}: install one (Debian, Ubuntu: apt-get install "
        "openjdk-8-jdk; else adoptium.net) and set JAVA_HOME to its folder",
    )


def _display(ask: Ask, variables: Mapping[str, str]) -> Need:
    if variables.get("DISPLAY"):
        return Need("display", variables["DISPLAY"], "")
    found = "xvfb-run" if ask(["xvfb-run", "--help"]) is not None else ""
    return Need(
        "display",
        found,
        ""
        if found
        else "Minecraft draws on a display, and there is none: apt-get install xvfb, then begin commands with "
        '`xvfb-run -a -s "-screen 0 1024x768x24"`',
    )


def _git(ask: Ask, source: str) -> Need:
    if not source.startswith("git+"):
        here = (Path(source) / "setup.py").exists()
        return Need(
            "source", source if here else "", f"{source} is no source tree of MineRL: there is no setup.py in it"
        )
    return Need(
        "git",
        (ask(["git", "--version"]) or "").removeprefix("git version "),
        "MineRL's source is fetched by git, which is missing: apt-get install git, or give a source tree with --source",
    )


def _python(ask: Ask, python: Path | None) -> Need:
    tried = [python] if python is not None else [Path(name) for name in PYTHONS]
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    for one in tried:
        version = ask([one, "-c", code])
        if version in ("3.8", "3.9", "3.10"):
            return Need("old Python", str(one), "")
    return Need(
        "old Python",
        "",
        f"numpy 1.23 and gym 0.19 need Python 3.8, 3.9 or 3.10 with venv, and {', '.join(map(str, tried))} "
        f"{'is' if len(tried) == 1 else 'are'} none that works: install one (uv python install 3.9, pyenv install "
        "3.9, or conda create -n minerl python=3.9) and give it with --python",
    )


def _host(host: str, reaches: Callable[[str], bool]) -> Need:
    return Need(
        host,
        "reached" if reaches(host) else "",
        f"the build downloads from {host}, which cannot be reached from here: let this machine through to it, or build "
        "where that is allowed and copy the environment",
    )


def install_steps(python: Path, venv: Path, source: str) -> list[list[str | Path]]:
    """Commands that make the environment, in their order."""
    pip: list[str | Path] = [venv / "bin/python", "-m", "pip", "install", "--disable-pip-version-check"]
    return [
        [python, "-m", "venv", venv],
        [*pip, "pip<24.1", "setuptools<66", "wheel<0.40"],  # what came later refuses gym's metadata
        [*pip, "numpy==1.23.5"],
        [*pip, "--no-build-isolation", "gym==0.19.0"],
        [*pip, "--no-build-isolation", source],
    ]


def install(python: Path, venv: Path, source: str) -> None:
    """Makes the environment, or what is missing of it. Raises ValueError where a step fails; its output is shown."""
    if shutil.which(str(python)) is None:
        raise ValueError(f"{python} is no program")
    for command in install_steps(python, venv, source):
        print(f"$ {' '.join(map(str, command))}", flush=True)
        if subprocess.run(command).returncode:
            raise ValueError(
                f"`{' '.join(map(str, command))}` failed, for the reason above: mend it and run the same command again"
            )
    if ask([venv / "bin/python", "-c", "import gym, minerl"], seconds=IMPORT_SECONDS) is None:
        raise ValueError(f"{venv} is made, but cannot import minerl: delete it and run the same command again")
