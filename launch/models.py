"""Trained models out of their run folders, ready for use: averaged weights, no gradients."""

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from agent.acting import AgentPolicy
from agent.agent import TERMS, Agent, AgentConfig
from agent.controller import Controller, ControllerConfig
from agent.imagination import ImaginationConfig
from dynamics.actions import ActionSpace
from dynamics.mdn_rnn import MDNRNN, MDNRNNConfig
from dynamics.world_model import DynamicsConfig, WorldModel
from launch import checkpoint
from launch.compiling import compile_model
from launch.distributed import has_bf16, say_once
from tokenizer.autoencoder import Tokenizer, TokenizerConfig
from tokenizer.shard_format import DatasetMeta, read_json
from tokenizer.vae import VAE, VAEConfig

M = TypeVar("M", bound=nn.Module)


MAKERS = {
    "Tokenizer": "train_tokenizer",
    "WorldModel": "train_dynamics",
    "Agent": "train_agent",
    "Imagination": "train_imagination",
    "VAE": "train_vae",
    "MDNRNN": "train_mdn_rnn",
    "Controller": "evolve",
}
"""Model -> the command that trains it."""


def newest(run: Path, *models: str) -> Path:
    """The newest whole checkpoint of a run, or an exported one, that must exist and hold one of these models."""
    path = checkpoint.find(run) if run.is_dir() else None
    wanted = " or ".join(f"`python -m launch.{MAKERS[model]}`" for model in models)
    if path is None:
        raise ValueError(f"{run} holds no checkpoint: {wanted} makes one")
    found = checkpoint.model_class(path)
    if found not in models:
        raise ValueError(f"{run} is the run of a {found}, not of a {models[0]}: give the folder of a run of {wanted}")
    return path


def identity(path: Path) -> str:
    """Names a checkpoint by when and how it came about, wherever its folder lies now."""
    if checkpoint.is_exported(path):
        exported_from: str = read_json(path / "config.json")["exported_from"]
        return exported_from
    return f"{path.name}-{hashlib.sha256((path / 'state.json').read_bytes()).hexdigest()[:16]}"


def load_tokenizer(run: Path) -> Tokenizer:
    path = newest(run, "Tokenizer")
    model = Tokenizer(checkpoint.load_config(path, TokenizerConfig))
    return _load(model, path)


def load_vae(run: Path) -> VAE:
    path = newest(run, "VAE")
    return _load(VAE(checkpoint.load_config(path, VAEConfig)), path)


def load_encoder(run: Path) -> Tokenizer | VAE:
    """What makes latents of frames: a tokenizer or a V."""
    return load_vae(run) if checkpoint.model_class(newest(run, "Tokenizer", "VAE")) == "VAE" else load_tokenizer(run)


def load_mdn_rnn(run: Path) -> MDNRNN:
    path = newest(run, "MDNRNN")
    return _load(MDNRNN(checkpoint.load_config(path, MDNRNNConfig)), path)


def load_controller(run: Path) -> Controller:
    path = newest(run, "Controller")
    return _load(Controller(checkpoint.load_config(path, ControllerConfig)), path)


def load_world(run: Path) -> WorldModel:
    path = newest(run, "WorldModel")
    return _load(WorldModel(checkpoint.load_config(path, DynamicsConfig)), path)


def agent_checkpoint(run: Path) -> Path:
    """The best checkpoint of a cloning run or of an imagination run where it looked for one, else the newest."""
    best = run / "best"
    return newest(best if best.is_dir() else run, "Agent", "Imagination")


def load_agent(run: Path) -> Agent:
    """The agent of a cloning run or of an imagination run (see `agent_checkpoint`)."""
    path = agent_checkpoint(run)
    if checkpoint.model_class(path) == "Imagination":
        return _load(Agent(checkpoint.load_config(path, ImaginationConfig).agent), path, part="agent")
    return _load(Agent(checkpoint.load_config(path, AgentConfig)), path)


def load_actor(
    run: Path, tokenizer: Path, meta: DatasetMeta, data: Path, *, told: Mapping[str, int]
) -> tuple[Tokenizer, Agent]:
    """An agent of a run and the tokenizer that it sees by; `told` has tasks' numbers in the data by their names.

    Raises ValueError where the two do not fit each other, or the environment of the data, or where one of these tasks
    has another number for the agent, or none.
    """
    eyes, agent = load_tokenizer(tokenizer), load_agent(run)
    check_same_tokenizer(agent.world.config.tokenizer, fingerprint(eyes), model=run, other=tokenizer)
    check_frame_size(eyes, meta)
    check_actions(agent.config.dynamics.actions, meta, model=run, other=data)
    for name, number in told.items():
        if agent.config.tasks[number : number + 1] != (name,):
            raise ValueError(
                f"{name!r} is task {number} of {data}, and the agent in {run} was trained for the tasks "
                f"{', '.join(agent.config.tasks)}: give the data that it was trained on"
            )
    return eyes, agent


def load_policy(
    run: Path, tokenizer: Path, meta: DatasetMeta, data: Path, *, told: Mapping[str, int], compile: bool
) -> AgentPolicy:
    """An agent of a run as it acts, told the first of these tasks. Raises ValueError as `load_actor`."""
    eyes, agent = load_actor(run, tokenizer, meta, data, told=told)
    device = default_device()
    return AgentPolicy(
        for_inference(eyes, device, compile=compile),
        for_inference(agent, device, compile=compile),
        task=next(iter(told.values())),
    )


def fingerprint(model: nn.Module) -> str:
    """Names a tokenizer, V or M by its weights: what another one says means nothing to a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_same_tokenizer(expected: str, found: str, *, model: Path, other: Path | str) -> None:
    """Raises ValueError where a model and what it is used with do not share a tokenizer."""
    if expected != found:
        raise ValueError(
            f"the model in {model} knows latents of tokenizer {expected or 'unknown'}, "
            f"but {other} is of tokenizer {found or 'unknown'}: "
            "use the tokenizer that it was trained with, or train it again"
        )


def check_actions(expected: ActionSpace, data: DatasetMeta, *, model: Path, other: Path | str) -> None:
    """Raises ValueError where a model acts in another space than the data do."""
    found = ActionSpace.from_json(data.action_space)
    if expected != found:
        raise ValueError(
            f"the model in {model} acts in {expected}, and {other} in {found}: "
            "give the data that it was trained on, or train it again"
        )


def check_tasks(known: Sequence[str], data: DatasetMeta, *, model: Path, other: Path | str) -> None:
    """Raises ValueError where the numbers of tasks in data mean others, or none, to an agent that knows these."""
    if tuple(known[: len(data.tasks)]) != data.tasks:
        raise ValueError(
            f"the agent in {model} was trained for the tasks {', '.join(known)}, and {other} is of "
            f"{', '.join(data.tasks)}: give the data that it was trained on, or train it again"
        )


def check_fits(
    world: DynamicsConfig, data: DatasetMeta, *, model: Path, other: Path | str, tasks: Sequence[str] = ()
) -> None:
    """Raises ValueError where latents do not fit a model: its tokenizer, its actions, the tasks of an agent."""
    check_same_tokenizer(world.tokenizer, data.tokenizer, model=model, other=other)
    check_actions(world.actions, data, model=model, other=other)
    if tasks:
        check_tasks(tasks, data, model=model, other=other)


def check_can_dream(agent: Agent, run: Path) -> None:
    """Raises ValueError where an agent's world model eroded as it was cloned, or where heads of it learned nothing."""
    missing = [term for term in TERMS if term not in agent.config.learns]
    if missing:
        raise ValueError(
            f"the agent in {run} was cloned without the losses {', '.join(missing)}: it cannot dream; give one that "
            "was cloned with all of them"
        )


def check_frame_size(tokenizer: Tokenizer | VAE, video: DatasetMeta) -> None:
    """Raises ValueError where the tokenizer was trained on frames of another size."""
    size = tokenizer.config.frame_size
    if video.frame_size != size:
        raise ValueError(
            f"the tokenizer was trained on frames of {size[0]}x{size[1]} pixels, "
            f"this video has {video.frame_size[0]}x{video.frame_size[1]}: train a tokenizer on it"
        )


def for_inference(model: M, device: torch.device, *, compile: bool, half: bool | None = None) -> M:
    """The same model, frozen, with parameters in bfloat16 (buffers and heads stay as they are) and compiled layers.

    `half` is whether they are, by default where the process's device multiplies in it. Where there is no compiler it
    says so once.
    """
    model = model.eval().requires_grad_(False).to(device)
    half = has_bf16() if half is None else half
    for part in [model.world] if isinstance(model, Agent) else [model]:
        for parameter in part.parameters() if half else ():
            parameter.data = parameter.data.to(torch.bfloat16)
    if compile:
        say_once(compile_model(model))
    return model


def default_device() -> torch.device:
    """The GPU of this process, which is another one for each rank of a machine; without one the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _load(model: M, path: Path, part: str = "") -> M:
    checkpoint.load_into(model, path, ema=(path / "ema.safetensors").exists(), part=part)
    return model.eval().requires_grad_(False)
