"""How the tokenizer and the dynamics of the two large sizes train: neither the paper nor anybody here says how long."""

from launch.loop import LoopConfig

LOOPS = {
    "base": LoopConfig(
        steps=100_000,
        warmup_steps=1000,
        log_every=50,
        save_every=1000,
        learning_rate=1e-3,
        optimizer="muon",
        ema_decay=0.999,
        compile=True,
    ),
    # AdamW, which every way of sharding takes.
    "dreamer4": LoopConfig(
        steps=200_000,
        warmup_steps=2000,
        log_every=50,
        save_every=1000,
        learning_rate=1e-4,
        ema_decay=0.9999,
        compile=True,
        activation_checkpointing=True,
    ),
}
"""By the name of the preset; agents take the same for fewer steps."""
