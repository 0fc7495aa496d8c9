"""A job that must go, and its containers on this node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from oci_criu_shim.container import jobs
from oci_criu_shim.container.record import DONE, Container
from oci_criu_shim.slurm import controller
from oci_criu_shim.slurm.rundir import RunDirectory
from oci_criu_shim.task import schedule
from oci_criu_shim.task.departure import Departure
from tests.unit.test_policy import ASKED, Make, make, record
from tests.unit.test_slurm import seen

if TYPE_CHECKING:
    from oci_criu_shim.container.record import Record

__all__ = ["make"]


def neighbour(departure: Departure) -> Container:
    """Another container of the job's whose checkpoints were asked for."""
    made = Container(departure.container.root, "neighbour")
    made.reserve()
    made.save(record(os.getpid(), os.getpid(), ASKED))
    return made


def test_one_that_ends_meanwhile_is_in_nobodys_way(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    departure = Departure(make("preempt"))
    departure.container.release()
    records = [neighbour(departure).load()]

    def load(_: Container) -> Record:
        return records.pop() if records else {}

    monkeypatch.setattr(Container, "load", load)
    departure.have_all_go()
    assert list(jobs.asked(departure.directory.path)) == []


@pytest.mark.parametrize(
    ("older", "requeueable", "marked"),
    [(True, True, [(schedule.TIMEOUT, "taken")]), (True, False, []), (False, True, [])],
)
def test_what_is_lost_goes_on_from_an_older_one(
    make: Make, monkeypatch: pytest.MonkeyPatch, older: bool, requeueable: bool, marked: list[tuple[str, str]]
) -> None:
    policy, marks = make("preempt,interval:1h"), list[tuple[str, str]]()
    monkeypatch.setattr(Departure, "mark", lambda _, *words: marks.append(words))
    monkeypatch.setattr(controller, "job", lambda _: seen(requeue=requeueable))
    if older:
        os.makedirs(f"{policy.store.path}/1")
    Departure(policy).lost()
    assert marks == marked
    assert Path(policy.container.path(DONE)).read_text() == "lost"
    assert RunDirectory(policy.container.root).time_is_up is bool(marked)
