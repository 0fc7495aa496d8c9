"""Look after containers from their start to their end."""
