"""What MineRL needs of a machine is found, and what is missing is told in a sentence each."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from launch import doctor, minerl_setup
from launch.minerl_setup import HOSTS, SOURCE, Need, install_steps, needs

SAYS = {
    "javac": "javac 1.8.0_402",
    "xvfb-run": "Usage: xvfb-run",
    "git": "git version 2.39",
    "python3.9": "3.9",
    "new": "3.12",
}
"""Programs of a machine that has all."""


def looked(
    lacks: Sequence[str] = (), python: str | None = None, source: str = SOURCE, **variables: str
) -> dict[str, Need]:
    def ask(command: Sequence[str | Path]) -> str | None:
        name = str(command[0])
        return None if name in lacks else SAYS.get(name)

    found = needs(
        None if python is None else Path(python),
        source,
        ask=ask,
        reaches=lambda host: host not in lacks,
        variables=variables,
    )
    return {need.name: need for need in found}


def test_a_machine_that_has_all_lacks_nothing() -> None:
    found = looked()
    assert all(need.found for need in found.values())
    assert found["old Python"].found == "python3.9" and found["JDK 8"].found == "1.8.0_402"
    assert looked(["xvfb-run"], DISPLAY=":1")["display"].found == ":1"


def test_each_thing_that_is_missing_has_a_sentence_that_says_how_to_get_it() -> None:
    found = looked([*SAYS, *HOSTS])
    assert not any(need.found for need in found.values())
    for name, says in {
        "JDK 8": "there is no javac: install one",
        "display": "apt-get install xvfb",
        "git": "apt-get install git",
        "old Python": "python3.9, python3.8, python3.10 are none that works",
        "services.gradle.org": "cannot be reached from here",
    }.items():
        assert says in found[name].advice and "\n" not in found[name].advice


def test_another_java_and_another_python_are_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAYS, "javac", "javac 17.0.15")
    assert not looked()["JDK 8"].found and "the one here is 17.0.15" in looked()["JDK 8"].advice
    assert (
        not looked(python="new")["old Python"].found
        and "new is none that works" in looked(python="new")["old Python"].advice
    )
    monkeypatch.setitem(SAYS, "/jdk8/bin/javac", "javac 1.8.0_1")
    assert looked(JAVA_HOME="/jdk8")["JDK 8"].found == "1.8.0_1"


def test_a_source_tree_is_looked_at(tmp_path: Path) -> None:
    assert "no source tree" in looked(source=str(tmp_path))["source"].advice
    (tmp_path / "setup.py").touch()
    assert looked(source=str(tmp_path))["source"].found == str(tmp_path)


def test_the_packages_of_its_time_come_before_it() -> None:
    steps = [" ".join(map(str, step)) for step in install_steps(Path("py"), Path("env"), "SOURCE")]
    assert steps[0] == "py -m venv env" and steps[-1].endswith("--no-build-isolation SOURCE")
    assert "setuptools<66" in steps[1] and "numpy==1.23.5" in steps[2]
    assert steps[3].endswith("--no-build-isolation gym==0.19.0")


def test_the_doctor_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Need("JDK 8", "", "there is none: get one"), Need("git", "2.39", "")]
    monkeypatch.setattr(minerl_setup, "needs", lambda *_: found)
    monkeypatch.setenv("COLUMNS", "300")
    doctor.doctor(doctor.Doctor(setup="minerl", json=tmp_path / "found.json"))
    said = capsys.readouterr().out
    assert "JDK 8: there is none: get one." in said and "missing" in said and "--setup minerl --python PYTHON" in said
    assert json.loads((tmp_path / "found.json").read_text())["git"]["found"] == "2.39"
    with pytest.raises(ValueError, match="nothing was installed: JDK 8 comes first"):
        doctor.doctor(doctor.Doctor(setup="minerl", python=Path("nowhere")))
    monkeypatch.setattr(minerl_setup, "needs", lambda *_: found[1:])
    with pytest.raises(ValueError, match="nowhere is no program"):
        doctor.doctor(doctor.Doctor(setup="minerl", python=Path("nowhere")))
