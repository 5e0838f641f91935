"""The space-time transformer of both models (Dreamer 4, sec. 3.3): three layers over a frame's slots, one over time.

Pre-RMSNorm, SwiGLU, QK-norm, grouped queries, RoPE over time. Slots of a frame are told apart by learned embeddings
that the models add, so the layers over space carry no positions of their own. Time layers are causal within a sliding
window: a slot attends to its own slot in the last `window` frames, its own frame counted.

Axes: b batch, t time, n slots of a frame, d width, w frames that the cache holds.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizer.attention import Norm, attend, attend_past_and_self, rotary_angles, rotate


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
    soft_cap: float | None = None
    """Attention logits are kept within +- this; None leaves them (QK-norm already bounds them)."""

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(f"dim={self.dim} does not split into {self.num_heads} heads of an even width")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}")
        if min(self.depth, self.time_every, self.window) < 1:
            raise ValueError(f"depth, time_every and window must be positive: {self}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def time_layers(self) -> int:
        return self.depth // self.time_every


@dataclass(frozen=True)
class Cache:
    """Keys and values of the last frames, one ring for each time layer; the rings never grow."""

    keys: tuple[Float[Tensor, "b n k w e"], ...]
    values: tuple[Float[Tensor, "b n k w e"], ...]
    positions: Int[Tensor, "w"]
    """Frame number that each place of the ring holds; far negative where it is empty."""
    next_position: int = 0

    EMPTY = -(2**40)


class Attention(nn.Module):
    """Projections and norms shared by both kinds of layer; the layers over time carry RoPE and may read a cache."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        heads = config.num_heads + 2 * config.num_kv_heads
        self.qkv = nn.Linear(config.dim, heads * config.head_dim, bias=False)
        self.query_norm = Norm(config.head_dim)
        self.key_norm = Norm(config.head_dim)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        nn.init.zeros_(self.out.weight)  # every layer starts as the identity

    def project(self, x: Float[Tensor, "b l d"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [b h l e], keys and values [b k l e]."""
        c = self.config
        qkv = self.qkv(x).unflatten(-1, (-1, c.head_dim)).transpose(1, 2)
        query, key, value = qkv.split([c.num_heads, c.num_kv_heads, c.num_kv_heads], dim=1)
        return self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype), value


class SpaceLayer(nn.Module):
    """Attention among the slots of a frame, then SwiGLU."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.attention_norm = Norm(config.dim)
        self.attention = Attention(config)
        self.mlp = SwiGLU(config)

    def forward(self, x: Float[Tensor, "b t n d"], mask: Bool[Tensor, "n n"] | None) -> Float[Tensor, "b t n d"]:
        query, key, value = self.attention.project(self.attention_norm(x).flatten(0, 1))
        mixed = attend(query, key, value, mask, soft_cap=self.config.soft_cap)
        x = x + self.attention.out(mixed.transpose(1, 2).flatten(2)).unflatten(0, x.shape[:2])
        out: Tensor = x + self.mlp(x)
        return out


class TimeLayer(nn.Module):
    """Causal attention of each slot to itself in past frames, then SwiGLU."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.attention_norm = Norm(config.dim)
        self.attention = Attention(config)
        self.mlp = SwiGLU(config)

    def forward(
        self,
        x: Float[Tensor, "b t n d"],
        rope: tuple[Tensor, Tensor],
        mask: Bool[Tensor, "t t"] | Bool[Tensor, "w"],
        past: tuple[Float[Tensor, "b m k w e"], Float[Tensor, "b m k w e"]] | None = None,
    ) -> tuple[Float[Tensor, "b t n d"], Tensor, Tensor]:
        """Frames among themselves, or one new frame after the cached keys and values of `past`.

        The n slots are the first of the cache's m; `mask` says what frames see, or which places of the cache count.
        Also gives the keys and values [b n k t e] of these frames.
        """
        batch, _, slots, _ = x.shape
        query, key, value = self.attention.project(self.attention_norm(x).transpose(1, 2).flatten(0, 1))
        query, key = rotate(query, *rope), rotate(key, *rope)
        if past is None:
            mixed = attend(query, key, value, mask, soft_cap=self.config.soft_cap)
        else:
            keys, values = (ring[:, :slots].flatten(0, 1) for ring in past)
            mixed = attend_past_and_self(query, key, value, keys, values, mask, soft_cap=self.config.soft_cap)
        update = self.attention.out(mixed.transpose(1, 2).flatten(2)).unflatten(0, (batch, slots)).transpose(1, 2)
        x = x + update
        return x + self.mlp(x), key.unflatten(0, (batch, slots)), value.unflatten(0, (batch, slots))


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

    def compile_layers(self) -> None:
        """Compiles each layer on its own: layers of one kind share the compiled code, and shapes stay static."""
        for layer in self.layers:
            layer.compile(dynamic=False)

    def forward(self, x: Float[Tensor, "b t n d"], space_mask: Bool[Tensor, "n n"] | None) -> Float[Tensor, "b t n d"]:
        return self._run(x, space_mask)[0]

    def prefill(
        self, x: Float[Tensor, "b t n d"], space_mask: Bool[Tensor, "n n"] | None
    ) -> tuple[Float[Tensor, "b t n d"], Cache]:
        """Runs a whole context and gives its output with the cache that goes on from it."""
        out, pairs = self._run(x, space_mask)
        cache = self.empty_cache(x.shape[0], x.shape[2], x.device, pairs[0][0].dtype if pairs else x.dtype)
        frames = torch.arange(max(0, x.shape[1] - cache.positions.shape[0]), x.shape[1], device=x.device)
        places = frames % cache.positions.shape[0]
        keys = tuple(
            ring.index_copy(3, places, key[..., frames, :]) for ring, (key, _) in zip(cache.keys, pairs, strict=True)
        )
        values = tuple(
            ring.index_copy(3, places, value[..., frames, :])
            for ring, (_, value) in zip(cache.values, pairs, strict=True)
        )
        return out, Cache(keys, values, cache.positions.index_copy(0, places, frames), x.shape[1])

    def step(
        self,
        x: Float[Tensor, "b one n d"],
        space_mask: Bool[Tensor, "n n"] | None,
        cache: Cache,
        *,
        write: bool,
        in_place: bool = False,
    ) -> tuple[Float[Tensor, "b one n d"], Cache]:
        """Runs the frame after those in the cache; `write` adds it to the cache.

        The slots of `x` may be fewer than the cache's: the first ones, where the last are seen by nobody. With
        `in_place` the rings are overwritten (fast, no gradient); without it new ones are made, and the old cache stays
        valid.
        """
        position = torch.tensor([cache.next_position], device=x.device)
        rope = rotary_angles(position, self.config.head_dim)
        past_mask = cache.positions > cache.next_position - self.config.window
        new: list[tuple[Tensor, Tensor]] = []
        for layer in self.layers:
            if isinstance(layer, SpaceLayer):
                x = layer(x, space_mask)
            else:
                i = len(new)
                x, key, value = layer(x, rope, past_mask, (cache.keys[i], cache.values[i]))
                new.append((key, value))
        return self.norm(x), _written(cache, new, position, in_place) if write else cache

    def empty_cache(self, batch: int, slots: int, device: torch.device, dtype: torch.dtype) -> Cache:
        """The ring holds window - 1 past frames: the present one attends to itself beside it."""
        c = self.config
        size = max(c.window - 1, 1)
        shape = (batch, slots, c.num_kv_heads, size, c.head_dim)
        keys, values = (
            tuple(torch.zeros(shape, device=device, dtype=dtype) for _ in range(c.time_layers)) for _ in range(2)
        )
        return Cache(keys, values, torch.full((size,), Cache.EMPTY, device=device, dtype=torch.int64))

    def _run(self, x: Tensor, space_mask: Tensor | None) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        frames = torch.arange(x.shape[1], device=x.device)
        rope = rotary_angles(frames, self.config.head_dim)
        age = frames[:, None] - frames[None, :]
        time_mask = (age >= 0) & (age < self.config.window)
        pairs = []
        for layer in self.layers:
            if isinstance(layer, SpaceLayer):
                x = layer(x, space_mask)
            else:
                x, key, value = layer(x, rope, time_mask)
                pairs.append((key, value))
        return self.norm(x), pairs


def _written(cache: Cache, new: list[tuple[Tensor, Tensor]], position: Tensor, in_place: bool) -> Cache:
    place = position % cache.positions.shape[0]
    keys, values, positions = cache.keys, cache.values, cache.positions
    if in_place:
        for ring_k, ring_v, (key, value) in zip(keys, values, new, strict=True):
            ring_k.index_copy_(3, place, key.to(ring_k.dtype))
            ring_v.index_copy_(3, place, value.to(ring_v.dtype))
        positions.index_copy_(0, place, position)
        return replace(cache, next_position=cache.next_position + 1)
    keys = tuple(ring.index_copy(3, place, key.to(ring.dtype)) for ring, (key, _) in zip(keys, new, strict=True))
    values = tuple(
        ring.index_copy(3, place, value.to(ring.dtype)) for ring, (_, value) in zip(values, new, strict=True)
    )
    return Cache(keys, values, positions.index_copy(0, place, position), cache.next_position + 1)
