"""Taking a checkpoint of a running container."""
