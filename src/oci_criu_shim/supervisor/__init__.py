"""Looking after a container from its start to its end."""
