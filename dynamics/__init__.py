"""Latents and actions -> next latents: action spaces, the world model, shortcut forcing, the cached simulator."""
