"""Preparing bundles for Slurm's own way of starting containers."""
