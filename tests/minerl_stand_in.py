"""An interpreter with packages `gym` and `minerl` that speak MineRL 1.0's old API without a game.

Keys make things happen (see HAPPENS), a world's picture is its seed and its step, and `go_wrong` says what breaks. As
MineRL, it has a helper process that holds on to open files, and a game in a session of its own.
"""

import shlex
import sys
from pathlib import Path

GYM = """
MADE = {}


class Box:
    def __init__(self, low, high):
        self.low, self.high = low, high


class Dict:
    def __init__(self, spaces):
        self.spaces = spaces


class Wrapper:
    def __init__(self, env):
        self.env = env

    def __getattr__(self, name):
        if name.startswith("_") or name in ("env", "num_steps", "timeout"):
            raise AttributeError(name)
        return getattr(self.env, name)


def make(name):
    return MADE[name]()
"""

HANDLERS = """
class ObserveFromFullStats:
    def __init__(self, stat_key):
        self.stat_key = stat_key
"""

MINERL = """
import json, os, subprocess, sys, tempfile, time
from collections import defaultdict

import gym
import numpy as np
from minerl.herobraine.hero.handlers import ObserveFromFullStats

FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODE, _, AT = open(os.path.join(FOLDER, "mode")).read().partition("@")
KEYS = ["ESC", "attack", "back", "drop", "forward", "inventory", "jump", "left", "pickItem", "right", "sneak",
        "sprint", "swapHands", "use"] + ["hotbar.%d" % slot for slot in range(1, 10)]
HAPPENS = {
    "attack": ("mine_block", "oak_log", 1),
    "use": ("use_item", "crafting_table", 1),
    "pickItem": ("pickup", "cobblestone", 1),
    "swapHands": ("custom", "interact_with_crafting_table", 1),
    "hotbar.1": ("craft_item", "oak_planks", 4),
    "hotbar.2": ("craft_item", "crafting_table", 1),
    "hotbar.3": ("craft_item", "stick", 4),
    "hotbar.4": ("craft_item", "wooden_pickaxe", 1),
    "hotbar.5": ("use_item", "wooden_pickaxe", 1),
}
if MODE == "never starts":
    print("Gradle has no network", flush=True)
    sys.exit(3)


def note(name, text):
    with open(os.path.join(FOLDER, name), "a") as file:
        file.write(text + "\\n")


class Task:
    def __init__(self):
        self.reset()

    def create_observables(self):
        return [ObserveFromFullStats(kind) for kind in ("mine_block", "craft_item", "use_item", "pickup")]

    def reset(self):
        self.observables = self.create_observables()


class Survival:
    def __init__(self):
        self.task, self.process, self.seeded, self.viewer = Task(), None, None, None
        keys = {key: None for key in KEYS if MODE != "other actions" or key != "drop"}
        self.action_space = gym.Dict({**keys, "camera": gym.Box(-180.0, 180.0)})
        self.unwrapped = self

    def seed(self, seed):
        assert isinstance(seed, int)
        self.seeded = seed

    def reset(self):
        if self.process is None:
            if os.fork() == 0:
                time.sleep(600)
            self.process = subprocess.Popen(["sleep", "600"], start_new_session=True)
            note("pids", str(self.process.pid))
            note("folders", tempfile.mkdtemp())
        self.task.reset()
        self.now, self.world, self.seeded = 0, self.seeded, None
        note("seeds", str(self.world))
        self.stats = defaultdict(lambda: defaultdict(lambda: np.zeros((), float)))
        if MODE == "hangs at reset":
            time.sleep(600)
        if MODE == "no display":
            raise EOFError("Minecraft process finished unexpectedly")
        return self.observe()

    def step(self, action):
        note("actions", json.dumps({key: np.asarray(value).tolist() for key, value in action.items()}))
        self.now += 1
        if MODE == "noise":
            print("{" * 100_000, flush=True)
            sys.stderr.write("noise\\n" * 100)
        if AT and self.now == int(AT):
            self.breaks()
        for key, (kind, item, count) in HAPPENS.items():
            if action[key]:
                self.stats[kind][item] = self.stats[kind][item] + count
        if MODE == "loses" and self.now == int(AT):
            return self.observe(), 0, True, {"error": "Connection timed out!"}
        if MODE.startswith("time is up") and self.now == int(AT):
            return self.observe(), 0.0, True, {"TimeLimit.truncated": "dead" not in MODE}
        return self.observe(), 0.0, MODE == "killed by a zombie" and self.now == int(AT), {"isGuiOpen": False}

    def breaks(self):
        flag = os.path.join(FOLDER, "broke")
        if MODE.endswith("once") and os.path.exists(flag):
            return
        open(flag, "w").close()
        if MODE.startswith("hangs"):
            time.sleep(600)
        if MODE.startswith("dies"):
            print("a fatal error has been detected by the Java Runtime", flush=True)
            os._exit(7)
        if MODE.startswith("raises"):
            raise RuntimeError("the chunk is gone")

    def observe(self):
        pov = np.full((360, 640, 3), (self.world % 100, self.now, 255), np.uint8)
        return {"pov": pov, **{h.stat_key: self.stats[h.stat_key] for h in self.task.observables}}


class Shovel(gym.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        env.task.create_observables = lambda: []
        self.timeout, self.num_steps, self.seen = 6, 0, set()

    def reset(self):
        self.seen = set()
        return self.env.reset()

    def step(self, action):
        observation, reward, done, info = self.env.step(action)
        for worth, key in ((1, "attack"), (2, "hotbar.1")):
            if action[key] and worth not in self.seen:
                self.seen.add(worth)
                reward += worth
        self.num_steps += 1
        return observation, reward, done or self.num_steps >= self.timeout, info


gym.MADE["MineRLHumanSurvival-v0"] = Survival
gym.MADE["MineRLObtainDiamondShovel-v0"] = lambda: Shovel(Survival())
"""


def write_stand_in(folder: Path) -> Path:
    """The path of the interpreter."""
    files = {"gym.py": GYM, "minerl/__init__.py": MINERL, "minerl/herobraine/__init__.py": ""}
    files |= {"minerl/herobraine/hero/__init__.py": "", "minerl/herobraine/hero/handlers.py": HANDLERS}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    go_wrong(folder, "")
    python = folder / "python"  # no variable of ours: worker processes may have been forked before it was set
    python.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(folder))} exec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    return python


def go_wrong(folder: Path, how: str) -> None:
    """From the next start of the game on: "hangs@3" is at its third step, "dies once@3" not again after that."""
    (folder / "mode").write_text(how)


def noted(folder: Path, name: str) -> list[str]:
    """What the stand-in wrote down, line by line."""
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []
