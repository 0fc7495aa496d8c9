"""Checkpoints on a shared file system: what is committed, found and kept. Knows no Slurm, and CRIU's images only to
show them."""
