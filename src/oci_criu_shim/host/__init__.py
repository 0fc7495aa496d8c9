"""The node: interfaces of its kernel, and programs that are installed on it."""
