"""Real programs that are preempted on a live cluster, and must have the right result."""
