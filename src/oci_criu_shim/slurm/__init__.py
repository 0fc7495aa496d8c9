"""Slurm: questions and commands to it, and its description of a task."""
