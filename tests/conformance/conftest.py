"""Every test of this directory runs with each runtime, as root and as a user."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests import NAME
from tests.conformance import runtime as runtimes
from tests.conformance.runtime import Bundle, Runtime
from tests.harness.cluster import Cluster
from tests.harness.cluster.bundle import make_bundle

PLACES = [(program, user) for program in runtimes.runtimes() for user in ("root", "alice")]
IDS = [f"{Path(program).name}-{user}" for program, user in PLACES]
numbers = count(1)
cruns: dict[str, list[tuple[str, int]]] = {}
"""What crun refused, by test."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One node; Slurm has no part in this."""
    with Cluster(f"{NAME}-conformance", nodes=1) as running:
        yield running


@pytest.fixture(scope="session")
def rootless(cluster: Cluster) -> dict[str, Any]:
    """The shared root file system's config.json."""
    path = make_bundle(cluster.shared / "bundle", 1000, 1000)
    config: dict[str, Any] = json.loads((path / "config.json").read_text())
    return config


@pytest.fixture(params=PLACES, ids=IDS)
def runtime(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Runtime]:
    """A runtime with an empty directory of its own; what a test leaves there is ended."""
    program, user = request.param
    directory = cluster.shared / f"case{next(numbers)}"
    made = Runtime(cluster, program, user, directory)
    for path in (directory, made.root.parent):
        path.mkdir()
        shutil.chown(path, user if user == "root" else 1000, 0 if user == "root" else 1000)
    yield made
    for name in made.names():
        made.call("delete", "--force", name)
    left = made.names()
    shutil.rmtree(directory)
    assert not left
    test = request.node.name.replace(Path(program).name, "", 1)
    if program == "crun":
        cruns[test] = made.refusals
    assert made.refusals == cruns.get(test, made.refusals)


@pytest.fixture
def bundle(runtime: Runtime, rootless: dict[str, Any]) -> Bundle:
    """A bundle that sleeps, and sees the test's directory at /case."""
    config = runtimes.spec(rootless, runtime.user)
    runtimes.bind(config, runtime.inside(runtime.directory), runtimes.CASE)
    return Bundle(runtime, runtime.directory / "bundle", config)
