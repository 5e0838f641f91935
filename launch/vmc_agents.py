"""The agents of World Models out of their folder, ready to act."""

from pathlib import Path

from agent.senses import VMCPolicy
from dynamics.actions import ActionSpace
from launch.models import (
    check_frame_size,
    check_same_tokenizer,
    default_device,
    fingerprint,
    for_inference,
    identity,
    load_controller,
    load_mdn_rnn,
    load_vae,
    newest,
)
from tokenizer.shard_format import DatasetMeta
from tokenizer.shards import Dataset

CONTROLLERS = {
    "vmc": "controller",
    "vmc_v_only": "v_only",
    "vmc_hidden": "hidden",
    "vmc_dream": "dream",
    "vmc_cold_dream": "cold_dream",
}
"""Agent -> the run of `launch.evolve` in the folder; V and M are in `vae` and `mdn_rnn`."""


def load_vmc(folder: Path, agent: str, meta: DatasetMeta) -> VMCPolicy:
    """Raises ValueError where its parts do not fit each other or the environment."""
    run = folder / CONTROLLERS[agent]
    controller, vae = load_controller(run), load_vae(folder / "vae")
    config = controller.config
    check_same_tokenizer(config.tokenizer, fingerprint(vae), model=run, other=folder / "vae")
    check_frame_size(vae, meta)
    if config.actions != ActionSpace.from_json(meta.action_space):
        raise ValueError(
            f"the controller in {run} acts in {config.actions}, {meta.environment} in {meta.action_space}: give the "
            "data that it was evolved for"
        )
    device = default_device()
    mdn_rnn = None
    if config.inputs != "z":
        mdn_rnn = load_mdn_rnn(folder / "mdn_rnn")
        if fingerprint(mdn_rnn) != config.mdn_rnn:
            raise ValueError(
                f"the controller in {run} was evolved with M {config.mdn_rnn}, the one in {folder / 'mdn_rnn'} is "
                f"{fingerprint(mdn_rnn)}: its h means something else; evolve the controller again"
            )
        mdn_rnn = for_inference(mdn_rnn, device, compile=False, half=False)
    vae = for_inference(vae, device, compile=False)
    return VMCPolicy(vae, mdn_rnn, controller.to(device))


def check_latents_of(vae: Path, mark: str, dataset: Dataset) -> None:
    """Raises ValueError where latents are not of this V."""
    if dataset.meta.tokenizer != mark:
        raise ValueError(
            f"{dataset.name} holds latents of {dataset.meta.tokenizer or 'no V'}, and the V in {vae} is {mark}: encode "
            "the video with it (`python -m launch.encode_latents`), or give the V that they are of"
        )


def identity_of(folder: Path, agent: str) -> str:
    """The checkpoint that is judged."""
    return identity(newest(folder / CONTROLLERS[agent], "Controller"))
