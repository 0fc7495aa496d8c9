"""The node that these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import NAME
from tests.cluster import Cluster
from tests.machine import here
from tests.system.support import Site


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    if here.INSIDE:
        yield here.site()
        return
    with Cluster(f"{NAME}-system", nodes=1) as running:
        made = Site(running)
        made.prepare("alice", "bob")
        yield made
