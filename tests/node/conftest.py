"""The node that these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import NAME
from tests.harness.cluster import Cluster
from tests.harness.vm import here
from tests.node.support import Site


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    if here.INSIDE:
        yield here.site()
        return
    with Cluster(f"{NAME}-system", nodes=1) as running:
        made = Site(running)
        made.prepare("alice", "bob")
        yield made
