"""The agent: task-conditioned tokens inside the world model, and heads for actions, rewards and ends.

Dreamer 4, sec. 3.3, eq. 9.

Axes: b batch, t time, s agent tokens, w width, l distances ahead, a the flat action row.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from agent.heads import EndHead, HeadConfig, PolicyHead, TwoHot
from dynamics.world_model import DynamicsConfig, WorldModel
from tokenizer.draws import Draws, of_rows, uniform
from tokenizer.losses import RunningRMS
from tokenizer.records import LatentClip

Term = Literal["video", "policy", "reward", "end"]
TERMS: tuple[Term, ...] = get_args(Term)


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    dynamics: DynamicsConfig = DynamicsConfig()
    heads: HeadConfig = HeadConfig()
    num_tokens: int = 2
    """Agent tokens of a frame."""
    tasks: tuple[str, ...] = ("task",)
    """Names of the tasks that it may be told, by their numbers."""

    learns: tuple[Term, ...] = TERMS
    """Losses of the finetuning. The policy's alone is behaviour cloning without a world model, and lets the world model
    erode: such an agent cannot dream."""

    policy_weight: float = 1.0
    """Of the cloning loss beside the others, once all are of one scale; alone it weighs nothing. Rewards and ends are
    rare and their gradients rough: where steps are few, the policy learns more of them with more weight."""

    temperature: float = 1.0
    """Of the distribution that actions are drawn from, in dreams and in the game. Below 1 the agent does what is likely
    more often than its demonstrators did, whose noise it has cloned too."""

    false_actions: float = 0.0
    """Share of frames that are cloned with the action of another clip in place of the one that led to them. A policy
    that may trust its last action repeats it: a car that once let go of the gas stands for good."""

    def __post_init__(self) -> None:
        if not 0 <= self.false_actions <= 1:
            raise ValueError(f"false_actions={self.false_actions} is not in [0, 1]")
        if self.policy_weight <= 0:
            raise ValueError(f"policy_weight={self.policy_weight} must be above 0")
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be above 0")
        if "policy" not in self.learns:
            raise ValueError(f"learns={self.learns} lacks 'policy': an agent clones in any case")
        if self.num_tokens < 1:
            raise ValueError(f"num_tokens={self.num_tokens} must be positive")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks={self.tasks} must be one or more, each named once")


class Agent(nn.Module):
    """World model and heads in one; `forward` is the finetuning loss."""

    def __init__(self, config: AgentConfig, world: WorldModel | None = None) -> None:
        super().__init__()
        self.config = config
        self.world = world or WorldModel(config.dynamics)
        width = config.dynamics.transformer.dim
        self.token_embed = nn.Parameter(torch.randn(config.num_tokens, width) * 0.02)
        self.task_embed = nn.Embedding(len(config.tasks), config.num_tokens * width)
        nn.init.normal_(self.task_embed.weight, std=0.02)
        features = config.num_tokens * width
        self.policy = PolicyHead(features, config.dynamics.actions, config.heads)
        self.reward = TwoHot(features, config.heads, distances=config.heads.distances)
        self.end = EndHead(features, config.heads)
        unlearned = {"video": self.world.latent_head, "reward": self.reward, "end": self.end}
        for name, head in unlearned.items():
            if name not in config.learns:
                head.requires_grad_(False)  # no gradient comes to it, which ranks that train together wait for
        self.video_rms, self.policy_rms, self.reward_rms = RunningRMS(), RunningRMS(), RunningRMS()
        # Ends are rare: their loss falls to almost nothing, and divided by that its noise would rule the others.
        self.end_rms = RunningRMS(eps=0.1)

    def tokens(self, task: Int[Tensor, "b"]) -> Float[Tensor, "b s w"]:
        """The agent's input in every frame of an episode."""
        of_task: Tensor = self.task_embed(task).unflatten(-1, self.token_embed.shape)
        return self.token_embed + of_task

    def features(self, agent_output: Float[Tensor, "*b s w"]) -> Float[Tensor, "*b f"]:
        """h_t, what the heads read."""
        return agent_output.float().flatten(-2)

    def forward(self, batch: LatentClip, generator: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Video, reward and end losses on uniform rows, cloning loss on relevant rows, each divided by its running RMS;
        the cloning loss beside others times its weight.

        The first half of the batch is uniform, the second relevant (see `agent.relevance`).
        """
        count = len(batch.task) // 2
        if len(batch.task) != 2 * count or not count:
            raise ValueError(f"half of a batch is uniform, half relevant: {len(batch.task)} rows are no two halves")
        half, relevant, learns = batch[:count], batch[count:], self.config.learns
        draws = of_rows(generator, slice(count, 2 * count))
        heard = with_false_actions(relevant, half, self.config.false_actions, draws)
        terms: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        if "video" in learns:
            terms["video"], metrics = self.world(half, of_rows(generator, slice(count)))
        if "reward" in learns or "end" in learns:
            hidden = self.read(type(batch).concatenate([half, heard]), generator)
            if "reward" in learns:
                terms["reward"] = self.reward_loss(hidden[:count], half)
            if "end" in learns:
                terms["end"] = self.end_loss(hidden[:count], half)
            cloned = hidden[count:]
        else:
            cloned = self.read(heard, draws)
        terms["policy"] = self.policy_loss(cloned, relevant)
        scales = {"video": self.video_rms, "policy": self.policy_rms, "reward": self.reward_rms, "end": self.end_rms}
        scaled = {name: scales[name](term) for name, term in terms.items()}
        if len(scaled) > 1:
            scaled["policy"] = self.config.policy_weight * scaled["policy"]
        loss = torch.stack(list(scaled.values())).sum()
        metrics["loss"] = torch.stack(list(terms.values())).sum().detach()
        return loss, metrics | {f"{name}_loss": term.detach() for name, term in terms.items()}

    def read(self, batch: LatentClip, generator: Draws) -> Float[Tensor, "b t f"]:
        """h_t of every frame, at the signal level that contexts have."""
        noisy = self.world.corrupt_context(self.world.standardise(batch.latents), generator)
        tokens = self.tokens(batch.task).unsqueeze(1).expand(-1, noisy.shape[1], -1, -1)
        grid = self.world.context_grid((noisy.shape[0], noisy.shape[1]))
        return self.features(self.world.denoise(noisy, grid, batch.actions, batch.labeled, tokens)[1])

    def policy_loss(self, hidden: Float[Tensor, "b t f"], batch: LatentClip) -> Float[Tensor, ""]:
        """-sum_n ln p(a_{t+n} | h_t), n = 1 .. L: a_t itself lies in the block of h_t and would be a leak."""
        distances = self.config.heads.distances
        actions, inside = ahead(batch, batch.actions, range(1, distances + 1))
        known = ahead(batch, batch.labeled, range(1, distances + 1))[0] & inside
        return -_masked_sum(self.policy.log_prob(self.policy(hidden), actions), known)

    def reward_loss(self, hidden: Float[Tensor, "b t f"], batch: LatentClip) -> Float[Tensor, ""]:
        """-sum_n ln p(r_{t+n} | h_t), n = 0 .. L-1: the reward of a step is read once its frame is there."""
        rewards, inside = ahead(batch, batch.rewards, range(self.config.heads.distances))
        return _masked_sum(self.reward.loss(self.reward(hidden), rewards), inside & batch.has_actions.unsqueeze(-1))

    def end_loss(self, hidden: Float[Tensor, "b t f"], batch: LatentClip) -> Float[Tensor, ""]:
        """Cross-entropy of going on at t+n, n = 0 .. L-1."""
        goes_on, inside = ahead(batch, batch.continues, range(self.config.heads.distances))
        loss = F.binary_cross_entropy_with_logits(self.end(hidden), goes_on.float(), reduction="none")
        return _masked_sum(loss, inside & batch.has_actions.unsqueeze(-1))

    def compile_layers(self) -> None:
        self.world.compile_layers()

    def checkpoint_activations(self) -> None:
        self.world.checkpoint_activations()


def with_false_actions(clips: LatentClip, others: LatentClip, share: float, generator: Draws) -> LatentClip:
    """Some frames hear the action of another clip in its place, if both are known; what is to be cloned stays.

    Never one of their own clip: its later actions are what is to be cloned from earlier frames, and would be a leak.
    """
    if not share:
        return clips
    false = (uniform(generator, tuple(clips.labeled.shape)) < share) & clips.labeled & others.labeled
    return replace(clips, actions=torch.where(false.unsqueeze(-1), others.actions, clips.actions))


def ahead(batch: LatentClip, values: Tensor, distances: range) -> tuple[Tensor, Bool[Tensor, "b t l"]]:
    """values[:, t + n] for each distance n along a new axis after time, and whether t + n lies inside the clip's own
    episode."""
    time = torch.arange(batch.num_frames, device=values.device)
    index = time[:, None] + torch.tensor(list(distances), device=values.device)
    last = batch.num_frames - 1
    index, inside = index.clamp_max(last), index <= last
    return values[:, index], inside & (batch.episode == 0)[:, index]


def _masked_sum(values: Float[Tensor, "b t l"], mask: Bool[Tensor, "b t l"]) -> Float[Tensor, ""]:
    """Sum over distances of the mean over frames where the target is known."""
    total = (values * mask).sum((0, 1)) / mask.sum((0, 1)).clamp_min(1)
    return total.sum()
