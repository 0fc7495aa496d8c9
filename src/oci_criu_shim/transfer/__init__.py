"""Checkpoints that go straight from one node's memory into another's."""
