"""Checkpoints on a shared file system: what is committed, found and kept. Knows no CRIU, no Slurm."""
