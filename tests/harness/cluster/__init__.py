"""A Slurm cluster of namespaces on one machine; see `python3 -m tests.harness.cluster --help`."""

from .cluster import Cluster
from .errors import ClusterError
from .waiting import wait_for

__all__ = ["Cluster", "ClusterError", "wait_for"]
