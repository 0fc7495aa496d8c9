"""What a restore does with a property of a container, and which functions look for it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oci_criu_shim.dump.survey import Subject, Survey
    from oci_criu_shim.errors import ShimError

    AtStart = Callable[[Subject], Iterator[ShimError]]
    Running = Callable[[Survey], Iterator[ShimError]]

KEPT, REFUSED, CHANGED = "kept", "refused", "changed"


class Property:
    """One row: `what` it is, its `answer`; `how` it comes back, or why it doesn't; and what to do `instead`.

    Two functions yield what they find of it: `at_start` looks at the bundle and the node alone, `running` at the
    running container. If there is only one of them, it tells both. Without any, it is refused or changed elsewhere, as
    the row says.
    """

    def __init__(
        self,
        answer: str,
        what: str,
        how: str,
        instead: str = "",
        at_start: AtStart | None = None,
        running: Running | None = None,
    ) -> None:
        self.answer = answer
        self.what = what
        self.how = how
        self.instead = instead
        self.at_start = at_start
        self.running = running or at_start


def kept(what: str, how: str) -> Property:
    """Return the row of what comes back as it was."""
    return Property(KEPT, what, how)


def refused(
    what: str, why: str, instead: str = "", at_start: AtStart | None = None, running: Running | None = None
) -> Property:
    """Return the row of what no checkpoint is taken of."""
    return Property(REFUSED, what, why, instead, at_start, running)


def changed(what: str, how: str, instead: str = "", running: Running | None = None) -> Property:
    """Return the row of what is different after a restore."""
    return Property(CHANGED, what, how, instead, None, running)
