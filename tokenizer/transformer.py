"""The space-time transformer of both models (Dreamer 4, sec. 3.3): three layers over a frame's slots, one over time.

Pre-RMSNorm, SwiGLU, QK-norm, grouped queries, RoPE over time. Slots of a frame are told apart by learned embeddings
that the models add, so the layers over space carry no positions of their own. Time layers are causal within a sliding
window of the last `window` frames, its own frame counted: factorised, where a slot attends to its own slot alone, or
dense, where it attends to all slots of those frames. The first `inner` slots of a frame, where that is given, see each
other alone, and the others see all: who nobody looks at can be left out.

Axes: b batch, t time, n slots of a frame, m slots that the cache holds, d width, w frames that the cache holds, p of
them that are looked at, f new frames, k key-value heads, e channels of a head.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tokenizer.attention import Norm, attend, attend_nested, attend_past_and_new, nested_mask, rotary_angles, rotate
from tokenizer.cache import Cache, Past, written


def divisors(*numbers: int) -> list[int]:
    """What divides all of these numbers."""
    return [size for size in range(1, min(numbers) + 1) if not any(number % size for number in numbers)]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    dim: int = 512
    depth: int = 8
    num_heads: int = 8
    num_kv_heads: int = 8
    mlp_hidden: int = 1536
    """Width of the SwiGLU's gate."""
    time_every: int = 4
    """Every layer of this number attends over time, the others over space."""
    window: int = 192
    """Frames that a time layer sees, the present one counted."""
    time_attention: Literal["factorised", "dense"] = "factorised"
    """Whether a slot attends over time to itself alone, or to all slots of the past frames and of its own."""
    soft_cap: float | None = None
    """Attention logits are kept within +- this; None leaves them (QK-norm already bounds them)."""

    def __post_init__(self) -> None:
        for name in ("dim", "depth", "num_heads", "num_kv_heads", "mlp_hidden", "time_every", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if self.dim % 2:
            raise ValueError(f"dim={self.dim} must be even")
        if self.dim // 2 % self.num_heads:
            raise ValueError(
                f"dim={self.dim} does not split into num_heads={self.num_heads} of an even width: "
                f"choose num_heads from {divisors(self.dim // 2)}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}: "
                f"choose num_kv_heads from {divisors(self.num_heads)}"
            )
        if self.depth < self.time_every:
            raise ValueError(
                f"time_every={self.time_every} is above depth={self.depth}: no layer would attend over time; "
                f"choose time_every from 1 to {self.depth}"
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def time_layers(self) -> int:
        return self.depth // self.time_every


class Attention(nn.Module):
    """Projections and norms shared by both kinds of layer; `layout` says over which rows attention runs."""

    def __init__(self, config: TransformerConfig, layout: str) -> None:
        super().__init__()
        self.config = config
        self.layout = layout
        heads = config.num_heads + 2 * config.num_kv_heads
        self.qkv = nn.Linear(config.dim, heads * config.head_dim, bias=False)
        self.query_norm = Norm(config.head_dim)
        self.key_norm = Norm(config.head_dim)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        nn.init.zeros_(self.out.weight)  # every layer starts as the identity

    def project(self, x: Float[Tensor, "b t n d"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [rows heads l e]."""
        c = self.config
        # Flat, here and below: a product with a strided batch copies the weights for each of its rows.
        flat = self.qkv(x.flatten(0, 2))
        _, t, n, _ = x.shape
        qkv = rearrange(flat, f"(b t n) (h e) -> {self.layout}", t=t, n=n, e=c.head_dim)
        query, key, value = qkv.split([c.num_heads, c.num_kv_heads, c.num_kv_heads], dim=1)
        return self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype), value

    def merge(self, mixed: Float[Tensor, "rows h l e"], like: Float[Tensor, "b t n d"]) -> Float[Tensor, "b t n d"]:
        b, t, n, _ = like.shape
        flat = rearrange(mixed, f"{self.layout} -> (b t n) (h e)", t=t, n=n)
        merged: Tensor = self.out(flat).unflatten(0, (b, t, n))
        return merged


class SpaceLayer(nn.Module):
    """Attention among the slots of a frame, then SwiGLU."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.attention_norm = Norm(config.dim)
        self.attention = Attention(config, "(b t) h n e")
        self.mlp = SwiGLU(config)

    def forward(self, x: Float[Tensor, "b t n d"], inner: int | None) -> Float[Tensor, "b t n d"]:
        query, key, value = self.attention.project(self.attention_norm(x))
        mixed = attend_nested(query, key, value, inner, soft_cap=self.config.soft_cap)
        x = x + self.attention.merge(mixed, x)
        out: Tensor = x + self.mlp(x)
        return out


class TimeLayer(nn.Module):
    """Causal attention to past frames, then SwiGLU. Attention runs over rows: one for each slot, or one with all."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.dense = config.time_attention == "dense"
        self.attention_norm = Norm(config.dim)
        self.attention = Attention(config, "b h (t n) e" if self.dense else "(n b) h t e")
        self.mlp = SwiGLU(config)

    def forward(
        self,
        x: Float[Tensor, "b t n d"],
        rope: tuple[Tensor, Tensor],
        mask: Bool[Tensor, "q kv"],
        past: tuple[Float[Tensor, "m b k p e"], Float[Tensor, "m b k p e"]] | None = None,
    ) -> tuple[Float[Tensor, "b t n d"], Float[Tensor, "n b k t e"], Float[Tensor, "n b k t e"]]:
        """Frames among themselves, or after the cached keys and values of `past`, whose first slots are those of `x`.

        Also gives the keys and values of these frames.
        """
        query, key, value = self.attention.project(self.attention_norm(x))
        query, key = rotate(query, *rope), rotate(key, *rope)
        if past is None:
            mixed = attend(query, key, value, mask, soft_cap=self.config.soft_cap)
        else:
            keys, values = (self._past_rows(ring, x.shape[2]) for ring in past)
            mixed = attend_past_and_new(query, key, value, keys, values, mask, soft_cap=self.config.soft_cap)
        x = x + self.attention.merge(mixed, x)
        return x + self.mlp(x), self._by_slot(key, x), self._by_slot(value, x)

    def _by_slot(self, rows: Float[Tensor, "rows k l e"], x: Tensor) -> Float[Tensor, "n b k t e"]:
        layout = "b k (t n) e" if self.dense else "(n b) k t e"
        return rearrange(rows, f"{layout} -> n b k t e", n=x.shape[2])

    def _past_rows(self, ring: Float[Tensor, "m b k p e"], slots: int) -> Float[Tensor, "rows k l e"]:
        return rearrange(ring, "m b k p e -> b k (p m) e") if self.dense else ring[:slots].flatten(0, 1)


class SwiGLU(nn.Module):
    """Normed gated feed-forward (Shazeer 2020)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = Norm(config.dim)
        self.up = nn.Linear(config.dim, 2 * config.mlp_hidden, bias=False)
        self.down = nn.Linear(config.mlp_hidden, config.dim, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        value, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        down: Tensor = self.down(value * F.silu(gate))
        return down


class SpaceTimeTransformer(nn.Module):
    """A stack of space and time layers over embedded slots; ends in a norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            TimeLayer(config) if (i + 1) % config.time_every == 0 else SpaceLayer(config) for i in range(config.depth)
        )
        self.norm = Norm(config.dim)
        self.recompute = False

    def compile_layers(self) -> None:
        """Compiles each layer on its own: layers of one kind share the compiled code, and shapes stay static."""
        for layer in self.layers:
            layer.compile(dynamic=False)

    def checkpoint_activations(self) -> None:
        """From now on a backward pass computes each layer again, so that only the layers' inputs are kept."""
        self.recompute = True

    def forward(
        self, x: Float[Tensor, "b t n d"], inner: int | None, images: int | None = None
    ) -> Float[Tensor, "b t n d"]:
        """The last `images` rows are taken as separate images: nothing of theirs attends over time.

        A number, be it 0, makes the time layers run for images and for the others, be there any or not: where the ranks
        hold parts of the weights, they must all run the same layers equally often. None has no images.
        """
        return self._run(x, inner, images)[0]

    def prefill(self, x: Float[Tensor, "b t n d"], inner: int | None) -> tuple[Float[Tensor, "b t n d"], Cache]:
        """Runs a whole context and gives its output with the cache that goes on from it."""
        out, pairs = self._run(x, inner)
        cache = self.empty_cache(x.shape[0], x.shape[2], x.device, pairs[0][0].dtype if pairs else x.dtype)
        return out, self.write(cache, pairs, x.shape[1], in_place=not out.requires_grad)

    def step(
        self,
        x: Float[Tensor, "b f n d"],
        inner: int | None,
        cache: Cache,
        *,
        write: int = 0,
        in_place: bool = False,
    ) -> tuple[Float[Tensor, "b f n d"], Cache]:
        """Runs the frames after those in the cache; the first `write` of them are added to the cache.

        The slots of `x` may be fewer than the cache's: the first ones, where the last are seen by nobody. With
        `in_place` the rings are overwritten (fast, no gradient); without it new ones are made, and the old cache stays
        valid.
        """
        out, new = self.pass_over(x, inner, self.past(cache, x.shape[1], x.shape[2], inner))
        return out, self.write(cache, new, write, in_place=in_place)

    def past(self, cache: Cache, frames: int, slots: int, inner: int | None) -> Past:
        """What a pass over so many new frames, of so many slots, looks at."""
        asked = frames, slots, inner
        if asked not in cache.pasts:
            cache.pasts[asked] = self._past(cache, frames, slots, inner)
        return cache.pasts[asked]

    def pass_over(
        self, x: Float[Tensor, "b f n d"], inner: int | None, past: Past
    ) -> tuple[Float[Tensor, "b f n d"], list[tuple[Tensor, Tensor]]]:
        """Runs new frames after their past; also gives the keys and values [n b k f e] of each time layer."""
        new: list[tuple[Tensor, Tensor]] = []
        for layer in self.layers:
            if isinstance(layer, SpaceLayer):
                x = layer(x, inner)
            else:
                x, key, value = layer(x, past.rope, past.mask, (past.keys[len(new)], past.values[len(new)]))
                new.append((key, value))
        return self.norm(x), new

    def write(self, cache: Cache, new: list[tuple[Tensor, Tensor]], frames: int, *, in_place: bool) -> Cache:
        """Adds the first frames of a pass to the cache."""
        if not frames:
            return cache
        first = max(0, frames - cache.positions.shape[0])  # of more than the ring holds the last ones stay
        begin, end = cache.next_position + first, cache.next_position + frames
        positions = torch.arange(begin, end, device=cache.positions.device)
        pairs = [(key[..., first:frames, :], value[..., first:frames, :]) for key, value in new]
        return written(replace(cache, next_position=begin), pairs, positions, in_place=in_place)

    def empty_cache(self, batch: int, slots: int, device: torch.device, dtype: torch.dtype) -> Cache:
        """The ring holds window - 1 past frames: the present one attends to itself beside it."""
        c = self.config
        size = max(c.window - 1, 1)
        shape = (slots, batch, c.num_kv_heads, size, c.head_dim)
        keys, values = (
            tuple(torch.zeros(shape, device=device, dtype=dtype) for _ in range(c.time_layers)) for _ in range(2)
        )
        return Cache(keys, values, torch.full((size,), Cache.EMPTY, device=device, dtype=torch.int64))

    def _past(self, cache: Cache, frames: int, slots: int, inner: int | None) -> Past:
        look, device = cache.look, cache.positions.device
        numbers = torch.arange(cache.next_position, cache.next_position + frames, device=device)
        age = numbers[:, None] - torch.cat([cache.positions[:look], numbers])
        mask = (age >= 0) & (age < self.config.window)
        # One copy of a young past for all passes over a frame: of a strided view each product would make its own.
        keys, values = (
            tuple(ring[..., :look, :].contiguous() for ring in rings) for rings in (cache.keys, cache.values)
        )
        cached_slots = keys[0].shape[0] if keys else slots
        return Past(*self._positions(numbers, mask, slots, cached_slots, inner), keys, values)

    def _run(
        self, x: Tensor, inner: int | None, images: int | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        video = self._among_themselves(x, inner)
        image = None if images is None else self._among_themselves(x[:, :1], inner)
        pairs = []
        for layer in self.layers:
            if isinstance(layer, SpaceLayer):
                x = self._call(layer, x, inner)
            else:
                x, key, value = self._over_time(layer, x, video, image, images or 0)
                pairs.append((key, value))
        return self.norm(x), pairs

    def _over_time(
        self, layer: nn.Module, x: Tensor, video: "_Positions", image: "_Positions | None", images: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        out: tuple[Tensor, Tensor, Tensor]
        if image is None:
            out = self._call(layer, x, *video)
            return out
        rows, time = x.shape[0] - images, x.shape[1]
        stills = self._call(layer, x[rows:].flatten(0, 1).unsqueeze(1), *image)[0].unflatten(0, (images, time))
        moving, key, value = self._call(layer, x[:rows], *video)
        return torch.cat([moving, stills.squeeze(2)]), key, value

    def _call(self, layer: nn.Module, *inputs: object) -> Any:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)

    def _among_themselves(self, x: Tensor, inner: int | None) -> "_Positions":
        frames, slots = torch.arange(x.shape[1], device=x.device), x.shape[2]
        age = frames[:, None] - frames[None, :]
        return self._positions(frames, (age >= 0) & (age < self.config.window), slots, slots, inner)

    def _positions(
        self, numbers: Tensor, mask: Tensor, slots: int, cached_slots: int, inner: int | None
    ) -> "_Positions":
        """RoPE and mask of the positions that attention runs over: frames, or under dense attention their slots."""
        rope = rotary_angles(numbers, self.config.head_dim)
        if self.config.time_attention == "factorised":
            return rope, mask
        sees = nested_mask(slots, inner, mask.device)
        past, new = mask.split([mask.shape[1] - len(numbers), len(numbers)], dim=1)
        cached = F.pad(sees, (0, cached_slots - slots))  # slots that are left out here are seen by nobody
        joined = torch.cat([_crossed(past, cached), _crossed(new, sees)], dim=1)
        cos, sin = (part.repeat_interleave(slots, 0) for part in rope)
        return (cos, sin), joined


_Positions = tuple[tuple[Tensor, Tensor], Tensor]


def _crossed(frames: Bool[Tensor, "q p"], slots: Bool[Tensor, "n m"]) -> Bool[Tensor, "qn pm"]:
    return rearrange(frames[:, None, :, None] & slots[None, :, None, :], "q n p m -> (q n) (p m)")
