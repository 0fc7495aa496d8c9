"""Checkpoint a Slurm task: decide when and why, and see to what follows for its job."""
