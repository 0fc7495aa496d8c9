"""Enter a container's namespaces, from a child of ours."""

from __future__ import annotations

import os

from oci_criu_shim.host import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def enter(pid: int, kinds: Sequence[str]) -> set[str]:
    """Enter those namespaces of a process that are not ours already, in the order of `kinds`; return which they were.

    A user namespace comes first, since it gives the right to enter the others. Until this process executes a program,
    it has the memory and the user of its parent, root perhaps, so nobody in there may trace it.
    """
    handles = {kind: os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in kinds}
    ours = {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind in kinds}
    others = {kind: handle for kind, handle in handles.items() if os.fstat(handle).st_ino != ours[kind]}
    if others:
        linux.make_undumpable()
    for handle in others.values():  # all are open before the first is entered, after which /proc may be another
        linux.enter(handle)
    for handle in handles.values():
        os.close(handle)
    return set(others)
