"""Which sessions and process groups a restore can make again."""

from __future__ import annotations

import pytest

from oci_criu_shim.container.bundle import Bundle
from oci_criu_shim.dump.faults import sessions
from oci_criu_shim.dump.proc import Process, Status
from oci_criu_shim.dump.survey import Survey

OUTSIDE = 1000  # a number on the node is that much higher


def survey(*tree: tuple[int, int, int, int]) -> Survey:
    """A container of processes (number, parent, session, group)."""
    made = Survey(OUTSIDE + 1, Bundle("/b", {}))
    made.processes = []
    for number, parent, session, group in ((1, 0, 1, 1), *tree):
        one = Process(OUTSIDE + number)
        words = {"Name": f"p{number}", "PPid": OUTSIDE + parent, "NSpid": f"{one.pid} {number}"}
        words |= {"NSpgid": f"{OUTSIDE + group} {group}", "NSsid": f"{OUTSIDE + session} {session}"}
        one.status = Status("".join(f"{name}:\t{value}\n" for name, value in words.items()))
        made.processes.append(one)
    return made


SESSIONS: dict[str, tuple[tuple[tuple[int, int, int, int], ...], list[str]]] = {
    "forked before its parent's session": (((2, 1, 2, 2), (3, 2, 1, 1)), []),
    "forked before two sessions": (((2, 1, 2, 2), (3, 2, 3, 3), (4, 3, 1, 1)), []),
    "adopted by the init": (((3, 1, 2, 2), (4, 3, 2, 2)), []),
    "a session below one who was adopted by the init": (((3, 1, 2, 2), (4, 3, 4, 4), (5, 4, 2, 2)), []),
    "its first process lives elsewhere": (((2, 1, 2, 2), (4, 1, 2, 2)), []),
    "adopted by another one": (((2, 1, 1, 1), (4, 2, 3, 3)), ["p4"]),
    "adopted by another one, which has a session": (((2, 1, 2, 2), (4, 2, 3, 3), (5, 4, 3, 3)), ["p4"]),
    "begun by a brother": (((2, 1, 1, 1), (3, 2, 3, 3), (4, 2, 3, 3)), ["p4"]),
    "born in two sessions": (((2, 1, 2, 2), (3, 2, 3, 3), (4, 3, 2, 2), (5, 3, 1, 1)), ["p5"]),
    "below one who was never in it": (((2, 1, 2, 2), (3, 2, 2, 2), (4, 3, 1, 1)), ["p4"]),
}


@pytest.mark.parametrize("case", SESSIONS)
def test_sessions(case: str) -> None:
    tree, lost = SESSIONS[case]
    said = [str(fault) for fault in sessions.orphaned(survey(*tree))]
    assert [line.split("(")[1].split(")")[0] for line in said] == lost
    assert all("none of its ancestors has begun" in line and "has adopted it" in line for line in said)


def test_a_session_from_outside() -> None:
    (fault,) = sessions.outside(survey((2, 1, 0, 2)))
    assert "(p2) is in a session that was begun outside of the container" in str(fault)


@pytest.mark.parametrize(
    ("tree", "left"),
    [
        (((2, 1, 1, 1), (3, 2, 1, 2)), True),
        (((2, 1, 1, 2), (3, 2, 1, 2)), False),
        (((3, 1, 1, 2),), False),
    ],
)
def test_a_group_that_its_first_process_has_left(tree: tuple[tuple[int, int, int, int], ...], left: bool) -> None:
    said = [str(fault) for fault in sessions.abandoned(survey(*tree))]
    assert ["which its first process, process 1002 (p2), has left" in line for line in said] == [True] * left


def test_what_has_ended_is_in_no_session() -> None:
    gone = survey((2, 1, 0, 1))
    gone.processes[1].status = Status("")
    assert not list(sessions.outside(gone))
