"""Behaviour: heads, cloning, imagination training, environments, rollouts and scores."""
