"""What a training of agents looks at beside its loss: the alarms of `agent.alarms`, and which checkpoint is the best.

In the run's folder: `alarms.json` holds what was measured before the first step, metrics.jsonl each measure,
`curves.png` their curves, and `best` the checkpoint that is used from then on.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agent import alarms
from agent.acting import AgentPolicy
from agent.agent import Agent
from agent.alarms import Measures
from agent.envs.vector import VectorEnv
from agent.imagination import Imagination
from agent.scoring import play
from agent.seeds import CHAMPION_TRACKS
from dynamics.world_model import WorldModel
from launch import checkpoint
from launch.checkpoint import Snapshot, describe
from launch.distributed import autocast, on_first_process
from launch.models import check_fits, check_same_tokenizer, fingerprint, for_inference, load_tokenizer
from launch.run_folder import write_json
from launch.tasks import scored_task
from launch.training import TrainOnLatents, open_dataset
from tokenizer.records import LatentClip
from tokenizer.shard_format import INDEX, DatasetMeta, read_json
from tokenizer.shards import Dataset
from tokenizer.stream import endings, windows

BEST = "best"
"""Folder below a run's."""
CLIPS_OF_MANY_TASKS = 128
"""Held-out clips where there are ten tasks: most pay nothing, and say nothing of the head that reads rewards."""
LOOKED_AT_FOR_ENDINGS = 256
"""Held-out clips of which those are found whose episodes ended."""
FEWEST_ENDINGS = 4


@dataclass(frozen=True, kw_only=True)
class TrainAndWatch(TrainOnLatents):
    """What the trainings of agents have in common."""

    held_out: Path | None = None
    """Latent shards that nothing is trained on: alarms and the best checkpoint go by them. Where not given, the folder
    `held_out` beside that of the data, if there is one; without any there are no alarms."""
    held_out_clips: int = 16
    """Clips of them that each evaluation looks at."""
    real_tracks: int = 0
    """Episodes of the first task in the real environment at each evaluation, on tracks of their own, where that is
    allowed: then they choose the best checkpoint. Needs --real-tokenizer."""
    real_tokenizer: Path | None = None
    """Run folder of the tokenizer whose latents the agent knows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.held_out_clips < 1 or self.real_tracks < 0:
            raise ValueError(
                f"held_out_clips={self.held_out_clips} must be at least 1, real_tracks={self.real_tracks} not negative"
            )
        if self.real_tracks and (self.real_tokenizer is None or self.watched is None):
            raise ValueError(f"real_tracks={self.real_tracks} needs --real-tokenizer and --held-out")

    def open_data(self) -> Dataset:
        """A clip whose rewards are of several tasks is shown with each of them."""
        return super().open_data().each_task()

    @property
    def watched(self) -> Path | None:
        """Folder of the held-out latents, if there are any."""
        if self.held_out is not None or self.tokenizer is not None:
            return self.held_out
        beside = Path(self.data[0]).parent / "held_out"
        return beside if (beside / INDEX).exists() else None


class Watch:
    """Measures a model in training; called as the loop's `evaluate`."""

    def __init__(
        self, config: TrainAndWatch, *, score: Callable[[Measures], float], relevant: Callable[[Dataset], Dataset]
    ) -> None:
        """Where the real environment is not asked, the best checkpoint is the one whose measures have left their ranges
        least; `score` says of measures how good it is among equals in that, and of equals the newest is the best.

        `relevant` selects the episodes on whose actions the policy's likelihood is taken.
        """
        assert config.watched is not None
        self.config, self.score = config, score
        self.dataset = open_dataset(config.watched, "latents").each_task()
        self.clips, self.cloned = self._windows(self.dataset), self._windows(relevant(self.dataset))
        self.best_reward = max(sample.reward_sum / sample.length for sample in self.dataset.samples)
        self._path = config.run / "alarms.json"
        self._said: set[str] = set()

    def _windows(self, dataset: Dataset) -> LatentClip:
        longest = max(sample.length for sample in dataset.samples)
        clips = windows(dataset, min(self.config.length, longest), self.config.held_out_clips)
        assert isinstance(clips, LatentClip)
        return clips

    @cached_property
    def endings(self) -> list[LatentClip]:
        """Last frames of held-out episodes that came to an end; none where they are too few to say anything."""
        assert self.config.watched is not None
        dataset, count = open_dataset(self.config.watched, "latents"), self.config.held_out_clips
        found = endings(dataset, self.config.length, count, look_at=LOOKED_AT_FOR_ENDINGS)
        clips = [clip for clip in found if isinstance(clip, LatentClip)]
        assert len(clips) == len(found)
        return clips if len(clips) >= FEWEST_ENDINGS else []

    def begin(self, world: WorldModel, *, tasks: Sequence[str], model: Path) -> None:
        """Notes what the world model is like before the first step; of a run that goes on that is known.

        Raises ValueError where what is looked at does not fit the world model or the tasks of the agent in `model`.
        """
        meta, watched, asked = self.dataset.meta, self.config.watched, self.config.real_tokenizer
        assert watched is not None
        check_fits(world.config, meta, model=model, other=watched, tasks=tasks)
        if asked is not None:
            check_same_tokenizer(world.config.tokenizer, fingerprint(load_tokenizer(asked)), model=model, other=asked)
        if on_first_process():
            self._note(world)

    def _note(self, world: WorldModel) -> None:
        looked_at = {"length": self.config.length, "held_out_clips": self.config.held_out_clips}
        looked_at |= {"endings": len(self.endings)} if self.endings else {}
        begun = checkpoint.latest(self.config.run) is not None
        if begun and self._path.exists() and read_json(self._path).get("looked_at") == looked_at:
            return
        with _eager():
            error = alarms.video_error(world, self.clips, torch.Generator().manual_seed(0))
        shutil.rmtree(self.config.run / BEST, ignore_errors=True)  # of other clips, or of a run that came to nothing
        write_json(self._path, {"video_error": error, "looked_at": looked_at, "best": None})

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        before = read_json(self._path)
        with _eager(), torch.no_grad(), autocast(self.config.loop.precision, _device(model)):
            measures = self.measure(model, before["video_error"])
        found = alarms.warnings(measures)
        for sentence in found:
            if sentence.partition(" ")[0] not in self._said:  # once for each measure: the rest is in metrics.jsonl
                print(f"alarm: {sentence}", flush=True)
        self._said = {sentence.partition(" ")[0] for sentence in found}
        asked = "real_return" in measures
        best = {
            "step": step,
            "excess": 0.0 if asked else alarms.excess(measures),
            "value": measures["real_return"] if asked else self.score(measures),
        }
        if before["best"] is None or _rank(best) >= _rank(before["best"]):
            self._keep(model, step)
            write_json(self._path, before | {"best": best})
        return {**measures, "alarms": float(len(found))}

    def measure(self, model: nn.Module, video_error_before: float) -> Measures:
        agent = model.agent if isinstance(model, Imagination) else model
        assert isinstance(agent, Agent)
        device, learns = _device(model), agent.config.learns
        clips = self.clips.to(device)

        def draws() -> torch.Generator:
            """The same at every evaluation: what differs is the model."""
            return torch.Generator(device).manual_seed(0)

        measures = {"policy_nll": alarms.policy_nll(agent, self.cloned.to(device), draws())}
        if "video" in learns:
            error = alarms.video_error(agent.world, clips, draws())
            measures |= {"held_out_video_error": error, "video_error_ratio": error / video_error_before}
        heads = alarms.head_measures(agent, clips, draws())
        if "end" in learns and self.endings:
            heads["end_missed"] = alarms.end_missed(agent, [clip.to(device) for clip in self.endings], draws())
        measures |= {name: value for name, value in heads.items() if name.partition("_")[0] in learns}
        if isinstance(model, Imagination):
            measures |= alarms.dream_measures(model, clips, self.best_reward, draws())
        if self.config.real_tracks:
            measures |= self._play(agent)
            if "imagined_reward" in measures and len(self.dataset.meta.tasks) == 1:  # dreams are of all tasks
                measures["imagined_over_real"] = alarms.over_real(measures["imagined_reward"], measures["real_reward"])
        return measures

    def _play(self, agent: Agent) -> Measures:
        """What the policy earns in the real environment, an episode and a frame."""
        count, meta = self.config.real_tracks, self.dataset.meta
        assert self.config.real_tokenizer is not None
        tokenizer = for_inference(load_tokenizer(self.config.real_tokenizer), _device(agent), compile=False)
        with _envs(meta, count) as envs:
            task, tracks = scored_task("", meta, envs.task_names), [CHAMPION_TRACKS + i for i in range(count)]
            played = play(AgentPolicy(tokenizer, agent), envs, tracks, task=task)
        return {
            "real_return": sum(played.returns) / count,
            "real_reward": sum(played.returns) / sum(played.lengths),
        }

    def _keep(self, model: nn.Module, step: int) -> None:
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        snapshot = Snapshot(model=tensors, ema={}, optimizer={}, config=describe(model))
        checkpoint.save(self.config.run / BEST, step, snapshot, {"kept": time.time()}, keep=1)


def _rank(checkpoint: Mapping[str, float]) -> tuple[float, float]:
    return -checkpoint["excess"], checkpoint["value"]


def _envs(meta: DatasetMeta, count: int) -> VectorEnv:
    return VectorEnv(
        meta.environment, num_envs=count, processes=min(2, count), stock=False, action_repeat=meta.action_repeat
    )


def _eager() -> Any:
    """Compiled layers would be compiled again for the shapes and modes of each measure."""
    return torch.compiler.set_stance("force_eager")


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
