"""The node that these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import NAME
from tests.cluster import Cluster
from tests.system.support import Site


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    with Cluster(f"{NAME}-system", nodes=1) as running:
        made = Site(running)
        made.prepare()
        yield made
