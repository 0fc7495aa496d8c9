"""Start a container from a checkpoint."""
