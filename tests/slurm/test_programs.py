"""Real programs without a container are preempted, all at once, and have the results of runs without a preemption."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests import NAME
from tests.harness import leftovers
from tests.harness.cluster import Cluster
from tests.harness.cluster.bundle import quiet, unpacked
from tests.harness.cluster.rootfs import ensure
from tests.programs.site import BARE, CONTAINED, Outcome, Site
from tests.programs.table import PROGRAMS

TESTED = {program.name: program for program in PROGRAMS if program.is_tested}
PACKAGES = tuple(sorted({name for program in TESTED.values() for name in program.packages}))
CASES = [*((name, BARE) for name in TESTED), ("redis", CONTAINED)]
Outcomes = dict[tuple[str, str], Outcome]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Cluster(f"{NAME}-programs", nodes=3, cpus=64, grace_time=60, unpacked=PACKAGES) as cluster:
        yield Site(cluster, ensure(unpacked(PACKAGES), quiet))


@pytest.fixture(scope="module")
def outcomes(site: Site) -> Outcomes:
    """What became of those that were preempted; and, as way "", of those that were not."""
    with leftovers.none_on(site.cluster), site.serving():
        preempted = {
            (name, way): site.submit(TESTED[name], f"{name}-{way[:2]}", way, "--exclude=n3") for name, way in CASES
        }
        # To its end on a third node, where nobody has its port.
        whole = {(name, ""): site.submit(TESTED[name], f"{name}-whole", BARE, "--nodelist=n3") for name in TESTED}
        site.preempt([*preempted.values()])
        found = {key: attempt.outcome() for key, attempt in (preempted | whole).items()}
        for node in site.cluster.compute_nodes():  # UCX, which is below Open MPI, leaves it there
            site.cluster.exec(node, ["rm", "-rf", "/run/user/1000/ucx"])
        return found


@pytest.mark.parametrize(("name", "way"), CASES)
def test_goes_on(outcomes: Outcomes, name: str, way: str) -> None:
    """With all of its connections, but for those to another node."""
    found = outcomes[name, way]
    assert found.verdict(outcomes[name, ""].result) == "right", f"{outcomes[name, '']}\n{found}"
    assert any(re.match("restored .* on n2$", event) for event in found.events), f"{found}"
    assert any("the program's next call fails" in event for event in found.events) == TESTED[name].is_outside
