"""The node: its kernel's interfaces, and the programs that stand on it."""
