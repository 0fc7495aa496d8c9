"""Take checkpoints of running containers."""
