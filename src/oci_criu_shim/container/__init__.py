"""A container: its bundle, the backend that creates it, its record, streams and hooks."""
