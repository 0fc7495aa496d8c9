"""A Slurm task that is checkpointed: when, why, and what becomes of it."""
