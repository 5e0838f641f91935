"""The process that plays MineRL, in an interpreter of its own, with a socket as its standard input.

MineRL pins packages of 2021, so this script runs where they are: on Python 3.8 or newer, with numpy, gym and minerl,
and nothing of ours. `agent.envs.minerl_game` starts it, talks to it by lines of JSON over that socket, and reads frames
out of an inherited file that both map into memory: what the game prints disturbs neither.

Each order gets one answer; {"failure": TEXT} says why there is none. MineRL itself checks no action, and passes a game
that broke off as an episode that ended: both are mended here.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Iterator
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if os.path.abspath(path) != HERE]  # else `minerl` would be our adapter

import numpy as np  # noqa: E402


class Child:
    """One environment of MineRL, and the counters that are wanted of it."""

    def __init__(self, order: dict[str, Any]) -> None:
        import gym
        import minerl  # noqa: F401  # registers its environments

        self.env = gym.make(order["game"])
        self.shape = tuple(order["shape"])
        self.counters = [tuple(name.split(":")) for name in order["counters"]]
        self.pixels = np.ndarray(self.shape, np.uint8, mmap.mmap(order["frame"], 0))
        self.sent: dict[str, int] = {}
        self.steps = 0
        _count_what_is_opened(self.env)

    def facts(self) -> dict[str, Any]:
        spec = getattr(self.env, "spec", None)
        limits = [getattr(spec, "max_episode_steps", None)]
        limits += [getattr(layer, "timeout", None) for layer in layers(self.env) if hasattr(layer, "num_steps")]
        return {
            "actions": sorted(self.env.action_space.spaces),
            "limit": min((int(limit) for limit in limits if limit), default=None),
            "python": sys.version.split()[0],
        }

    def reset(self, order: dict[str, Any]) -> dict[str, Any]:
        self.env.seed(order["seed"])  # for this episode: MineRL forgets it after each reset
        for layer in layers(self.env):
            if hasattr(layer, "num_steps"):  # the shovel's clock, which MineRL lets go on over all episodes
                layer.num_steps = 0
        self.sent, self.steps = {}, 0
        return self.state(self.env.reset())

    def step(self, order: dict[str, Any]) -> dict[str, Any]:
        observation, reward, done, info = self.env.step(self.checked(order["action"]))
        if "error" in info:
            return {"failure": "MineRL lost its game: {}".format(info["error"])}
        self.steps += 1
        timed_out = info.get("TimeLimit.truncated")  # by gym's clock, which tells it where it ran out
        timed_out = None if timed_out is None else bool(timed_out)
        ended = {"reward": float(reward), "done": bool(done), "timed_out": timed_out}
        return {**self.state(observation), **ended, "steps": self.steps}

    def checked(self, action: dict[str, Any]) -> dict[str, Any]:
        """As the game's action space has it: every key, no other, within its bounds."""
        spaces = self.env.action_space.spaces
        if set(action) != set(spaces):
            raise ValueError("an action lacks {} and has unknown {}".format(*differences(set(spaces), set(action))))
        camera = np.asarray(action["camera"], np.float32)
        if camera.shape != (2,) or not np.isfinite(camera).all():
            raise ValueError(f"camera is {camera.tolist()}, not pitch and yaw in degrees")
        keys = {name: int(bool(value)) for name, value in action.items() if name != "camera"}
        low, high = (np.broadcast_to(getattr(spaces["camera"], bound), (2,)) for bound in ("low", "high"))
        return {**keys, "camera": np.clip(camera, low, high)}

    def state(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The frame goes into the shared memory; of the counters those that changed are told."""
        frame = np.asarray(observation["pov"])
        if frame.shape != self.shape or frame.dtype != np.uint8:
            raise ValueError(f"the game draws {frame.dtype} {frame.shape}, not uint8 {self.shape}")
        self.pixels[...] = frame
        now = {":".join(name): count(observation, name) for name in self.counters}
        changed = {name: number for name, number in now.items() if number != self.sent.get(name, 0)}
        self.sent.update(changed)
        return {"counters": changed}


def count(observation: dict[str, Any], counter: tuple[str, ...]) -> int:
    """Of "mine_block", "oak_log"; 0 where this game does not tell it."""
    kind, item = counter
    counters = observation.get(kind)
    return int(counters[item]) if counters is not None and item in counters else 0


def layers(env: Any) -> Iterator[Any]:
    """A wrapped environment from the outside in."""
    while env is not None:
        yield env
        env = env.__dict__.get("env")


def differences(expected: set[str], found: set[str]) -> tuple[list[str], list[str]]:
    return sorted(expected - found), sorted(found - expected)


def _count_what_is_opened(env: Any) -> None:
    """MineRL leaves the counters of opened tables and furnaces out of what it observes, though its game sends them."""
    task = env.unwrapped.task
    if not any(getattr(handler, "stat_key", None) == "mine_block" for handler in task.observables):
        return  # a game that observes no counters at all
    from minerl.herobraine.hero import handlers

    known = task.create_observables
    task.create_observables = lambda: [*known(), handlers.ObserveFromFullStats("custom")]  # each reset makes them anew


def orders(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """Until the other side is gone."""
    with connection.makefile("rb") as lines:
        for line in lines:
            yield json.loads(line.decode())


def serve(connection: socket.socket) -> None:
    child: Child | None = None
    for order in orders(connection):
        try:
            if order["do"] == "start":
                tempfile.tempdir = order["folder"]  # gets MineRL's copy of the game, and is removed with it
                os.environ.setdefault("MALMO_MINECRAFT_OUTPUT_LOGDIR", order["folder"])
                os.environ.setdefault(order["mark"], "1")  # by which its processes are found
                child = Child(order)
                answer = child.facts()
            else:
                answer = getattr(child, order["do"])(order)
        except BaseException as error:  # MineRL also raises what is no Exception
            traceback.print_exc()
            answer = {"failure": f"{type(error).__name__}: {error}"}
            if isinstance(error, ImportError):
                answer["missing"] = error.name or ""
        connection.sendall(json.dumps(answer).encode() + b"\n")


def main() -> None:
    connection = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # else the game, which inherits it, might read our orders
    serve(connection)


if __name__ == "__main__":
    main()
