"""Prepare bundles for Slurm's own ways of starting containers."""
