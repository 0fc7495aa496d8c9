"""Slurm: what it is asked and told, and what it says of a task."""
