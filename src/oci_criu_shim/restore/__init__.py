"""Starting a container from a checkpoint."""
