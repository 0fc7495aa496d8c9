"""An OCI runtime that checkpoints and restores Slurm's container jobs."""

__version__ = "0.2.0"
