"""Pictures of what M of World Models dreams, at several temperatures, under the actions of held-out episodes.

python -m launch.dream_vmc laptop
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamics.mdn_rnn import MDNRNN, sample_mixture
from launch.command import main
from launch.models import check_same_tokenizer, default_device, fingerprint, for_inference, load_mdn_rnn, load_vae
from launch.open_loop import finished
from launch.pictures import save_rows, save_side_by_side
from launch.run_folder import write_json
from launch.serial import to_json
from launch.training import open_dataset
from launch.vmc_agents import check_latents_of
from tokenizer.draws import normal, uniform
from tokenizer.metrics import psnr
from tokenizer.records import LatentClip
from tokenizer.stream import windows


@dataclass(frozen=True, kw_only=True)
class DreamVMC:
    run: Path
    """Folder that gets dream_vmc.png, dream_vmc.mp4 and dream_vmc.json."""
    held_out: Path
    """Folder of latent shards that no training saw."""
    vae: Path
    """Run folder of V."""
    mdn_rnn: Path
    """Run folder of M."""
    temperatures: tuple[float, ...] = (0.1, 0.5, 1.0, 1.3)
    """Above 1 a dream is less certain than M is."""
    clips: int = 8
    """Episodes that are dreamt again."""
    context: int = 16
    """Frames that M sees before it dreams."""
    horizon: int = 48
    """Frames that it dreams."""
    skip_frames: int = 13
    """Frames left out at the start of each episode: CarRacing opens with a zoom."""
    seed: int = 0
    """Of the dreams, the same at all temperatures."""

    def __post_init__(self) -> None:
        for name in ("clips", "context", "horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}, needs at least 1")
        if not self.temperatures or min(self.temperatures) <= 0:
            raise ValueError(f"temperatures={self.temperatures} must be above 0, at least one of them")


def dream_vmc(config: DreamVMC) -> None:
    """Dreams are compared with what V makes of the real frames: they cannot look better."""
    device = default_device()
    vae, mdn_rnn = load_vae(config.vae), load_mdn_rnn(config.mdn_rnn)
    mark = fingerprint(vae)
    check_same_tokenizer(mdn_rnn.config.tokenizer, mark, model=config.mdn_rnn, other=config.vae)
    dataset = open_dataset(config.held_out, "latents")
    check_latents_of(config.vae, mark, dataset)
    made_by = {"mdn_rnn": fingerprint(mdn_rnn), "held_out": dataset.fingerprint()[:16], **settings_of(config)}
    path = config.run / "dream_vmc.json"
    if finished(path, made_by) is not None:
        print(f"already done: {config.run}")
        return
    vae, mdn_rnn = vae.to(device), for_inference(mdn_rnn, device, compile=False, half=False)
    clips = windows(dataset, config.context + config.horizon, config.clips, start=config.skip_frames).to(device)
    assert isinstance(clips, LatentClip)
    shown: dict[str, Tensor] = {}
    with torch.no_grad():
        shown["V of the real"] = seen = vae.decode(clips.latents[:, config.context :, 0].float())
        for temperature in config.temperatures:
            generator = torch.Generator(device).manual_seed(config.seed)
            dreamt = dream(mdn_rnn, clips, config.context, temperature, generator)
            shown[f"temperature {temperature:g}"] = vae.decode(dreamt)
    every = max(1, config.horizon // 8)
    save_rows(config.run / "dream_vmc.png", {name: video[0, ::every] for name, video in shown.items()})
    save_side_by_side(config.run / "dream_vmc.mp4", {name: video[0] for name, video in shown.items()}, dataset.meta.fps)
    found = {
        name: psnr(vae.visible(video), vae.visible(seen)).mean(0).tolist()
        for name, video in shown.items()
        if video is not seen
    }
    for name, values in found.items():
        after = f"{values[-1]:.1f} after {config.horizon}"
        print(f"{name}: {values[0]:.1f} dB after one frame, {after}, against what V makes of the real ones")
    write_json(path, {"made_by": made_by, "psnr_against_vae": found})
    print(f"pictures in {config.run}")


def settings_of(config: DreamVMC) -> dict[str, Any]:
    """What else a picture depends on."""
    places = ("run", "held_out", "vae", "mdn_rnn")
    settings: dict[str, Any] = to_json(config)
    return {name: value for name, value in settings.items() if name not in places}


def dream(mdn_rnn: MDNRNN, clips: LatentClip, context: int, temperature: float, generator: torch.Generator) -> Tensor:
    """z of the frames after the context, under the clips' actions, [b t d]."""
    state = mdn_rnn.start(len(clips.labeled))
    z, dreamt = clips.latents[:, 0, 0].float(), []
    for t in range(1, clips.num_frames):
        state = mdn_rnn.step(state, z, clips.actions[:, t], clips.is_first[:, t - 1])
        if t < context:
            z = clips.latents[:, t, 0].float()
            continue
        choice, noise = uniform(generator, z.shape), normal(generator, z.shape)
        z = sample_mixture(mdn_rnn.mixture(state.h), choice, noise, temperature=temperature)
        dreamt.append(z)
    return torch.stack(dreamt, dim=1)


SIZES: dict[str, dict[str, Any]] = {
    "debug": {"clips": 1, "context": 2, "horizon": 3, "skip_frames": 0},
    "laptop": {},
    "take_cover": {"skip_frames": 0, "temperatures": (0.1, 0.5, 1.0, 1.15), "horizon": 24},
    "paper": {},
}
PRESETS = {
    name: DreamVMC(
        run=Path(f"runs/{name}/vmc/dreams"),
        held_out=Path(f"runs/{name}/vmc/latents/held_out"),
        vae=Path(f"runs/{name}/vmc/vae"),
        mdn_rnn=Path(f"runs/{name}/vmc/mdn_rnn"),
        **sizes,
    )
    for name, sizes in SIZES.items()
}

if __name__ == "__main__":
    main(PRESETS, dream_vmc, description=__doc__, processes="first")
