"""The clusters that the tests of this directory share, and what all tests of it are held to."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import NAME
from tests.harness import jobs, leftovers
from tests.harness.cluster import Cluster

GRACE_TIME = 20
LOSING = ("MessageTimeout=2", "SlurmdTimeout=10")
"""A lost node is soon known to be lost. So is one that is only slow: this is for clusters that lose nodes."""
SALLOC = ("LaunchParameters=use_interactive_step",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="namespaces of a cluster need root"))


@pytest.fixture(scope="session")
def shim_cluster() -> Iterator[Cluster]:
    """Two nodes with the project installed. A requeued job is held back for as long as Slurm does by default."""
    with Cluster(f"{NAME}-shim", grace_time=GRACE_TIME, kill_wait=3, requeue_delay=120, slurm_conf=SALLOC) as running:
        yield running


@pytest.fixture(scope="session")
def shim_bundle(shim_cluster: Cluster) -> str:
    return jobs.prepare(shim_cluster)


@pytest.fixture(scope="session")
def losing_cluster() -> Iterator[Cluster]:
    """Two nodes with the project installed, for tests that take the power from one."""
    with Cluster(f"{NAME}-losing", grace_time=GRACE_TIME, kill_wait=3, requeue_delay=120, slurm_conf=LOSING) as running:
        yield running


@pytest.fixture(scope="session")
def losing_bundle(losing_cluster: Cluster) -> str:
    return jobs.prepare(losing_cluster)


@pytest.fixture(scope="session")
def ranges_cluster() -> Iterator[Cluster]:
    """Two nodes with the project installed. Users have ranges of ids; a task without a checkpoint may begin again."""
    with Cluster(f"{NAME}-ranges", grace_time=GRACE_TIME, kill_wait=3, subids=True) as running:
        for node in running.compute_nodes():
            settings = ["sh", "-c", "echo 'fresh-start = true' >/etc/oci-criu-shim/config.toml"]
            running.exec(node, settings, "root")
        yield running


@pytest.fixture(scope="session")
def ranges_bundle(ranges_cluster: Cluster) -> str:
    return jobs.prepare(ranges_cluster)


@pytest.fixture(scope="session")
def plain_cluster() -> Iterator[Cluster]:
    """One node with plain crun."""
    with Cluster(f"{NAME}-plain", nodes=1, install=False, slurm_conf=SALLOC) as running:
        yield running


@pytest.fixture(scope="session")
def plain_bundle(plain_cluster: Cluster) -> str:
    return jobs.prepare(plain_cluster)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves anything on the nodes of the clusters that it is given (fixtures named `…cluster`)."""
    names = [name for name in request.fixturenames if name.endswith("cluster")]
    with leftovers.none_on(*map(request.getfixturevalue, names)):
        yield
