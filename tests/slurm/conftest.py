"""The clusters that the tests of this directory share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import jobs
from tests.cluster import Cluster

QUICK = ("MessageTimeout=5", "SlurmdTimeout=10")


@pytest.fixture(scope="session")
def shim_cluster() -> Iterator[Cluster]:
    """Two nodes with the project installed."""
    with Cluster("pytest-shim", grace_time=15, kill_wait=3, slurm_conf=QUICK) as running:
        yield running


@pytest.fixture(scope="session")
def shim_bundle(shim_cluster: Cluster) -> str:
    return jobs.prepare(shim_cluster)


@pytest.fixture(scope="session")
def plain_cluster() -> Iterator[Cluster]:
    """One node with plain crun."""
    with Cluster("pytest-plain", nodes=1, install=False, slurm_conf=QUICK) as running:
        yield running


@pytest.fixture(scope="session")
def plain_bundle(plain_cluster: Cluster) -> str:
    return jobs.prepare(plain_cluster)
