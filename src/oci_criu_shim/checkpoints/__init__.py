"""Commit, find, keep and remove checkpoints on a shared file system. This package asks Slurm nothing, and reads CRIU's
images only to show them."""
