"""Sessions and process groups (credentials(7)) that a restore can't make again.

CRIU makes them as programs do: a session is begun by its first process, and inherited by what that forks. If the first
one has ended, another one plays it only for the children of the init (prepare_pstree_ids() in criu/pstree.c, 4.2).
"""

from __future__ import annotations

from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.dump.proc import Process
    from oci_criu_shim.dump.survey import Survey

INIT = "1"


class _Kin:
    """A process, and the numbers inside of itself, its parent, its session and its process group."""

    def __init__(self, process: Process, number: str, parent: str, session: str, group: str) -> None:
        self.process = process
        self.number = number
        self.parent = parent
        self.session = session
        self.group = group

    @property
    def leads_session(self) -> bool:
        return self.session == self.number


def _kin(survey: Survey) -> dict[str, _Kin]:
    """Return {number inside: process} of those that have not ended."""
    inside = {str(each.pid): number for each in survey.processes for number in each.status.get("NSpid")[-1:]}
    found = {}
    for each in survey.processes:
        last = [number for name in ("NSpid", "NSsid", "NSpgid") for number in each.status.get(name)[-1:]]
        if len(last) == 3:
            number, session, group = last
            parent = inside.get(each.status.get("PPid", [""])[0], "")
            found[number] = _Kin(each, number, parent, session, group)
    return found


def outside(survey: Survey) -> Iterator[ShimError]:
    """Yield processes whose session was begun outside of the container: it has no number inside."""
    for each in _kin(survey).values():
        if each.session == "0":
            yield ShimError(
                f"{each.process} is in a session that was begun outside of the container",
                "start it by a runtime that makes a session for it, as crun and runc do",
            )


def orphaned(survey: Survey) -> Iterator[ShimError]:
    """Yield processes that have another session than their parent, and can't be forked before that began its own.

    Such is a daemon that another process than the init has adopted (PR_SET_CHILD_SUBREAPER of prctl(2)).
    """
    kin = _kin(survey)
    born: dict[str, str] = {}
    for each in kin.values():
        is_simple = each.leads_session or each.parent in ("", INIT) or kin[each.parent].session == each.session
        if not is_simple and not _is_inherited(each, kin, born):
            yield ShimError(
                f"{each.process} is in the session {each.session}, which none of its ancestors has begun: its parent,"
                f" {kin[each.parent].process}, has adopted it, and CRIU can't restore that",
                "have it adopted by the container's first process, or stay in the session of its parent",
            )


def _is_inherited(each: _Kin, kin: dict[str, _Kin], born: dict[str, str]) -> bool:
    """Return whether an ancestor has begun the session of a process, and those between them can have been born in it.

    `born` has the sessions that processes that have begun one are to be born in, and gets more.
    """
    wanted, above = each.session, kin[each.parent]
    while above.number != wanted:
        if above.session != wanted and not (above.leads_session and born.setdefault(above.number, wanted) == wanted):
            return False
        if above.parent not in kin:
            return False
        if above.session == wanted and above.parent == INIT:
            return True  # CRIU has somebody play the first process
        above = kin[above.parent]
    return True


def abandoned(survey: Survey) -> Iterator[ShimError]:
    """Yield processes in a group whose first process is in another one by now, and never makes theirs again.

    CRIU has somebody make it only if that process has ended (prepare_pstree_ids() in criu/pstree.c, 4.2).
    """
    kin = _kin(survey)
    for each in kin.values():
        leader = kin.get(each.group)
        if leader and leader.group != each.group:
            yield ShimError(
                f"{each.process} is in the process group {each.group}, which its first process, {leader.process},"
                " has left: CRIU can't restore that",
                "have the first process of a group stay in it, or all leave it (setpgid)",
            )
