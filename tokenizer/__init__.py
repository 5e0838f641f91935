"""Pixels <-> latents: the space-time transformer, the masked autoencoder, and the video shards it learns from."""
