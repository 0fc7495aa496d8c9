"""Note attributes of threads that CRIU 4.2 does not restore, and set them again.

They are noted when everything is frozen, and set from outside before anything runs. A thread goes by its number in the
container.
"""

from __future__ import annotations

import os

from oci_criu_shim.host import cgroups, linux, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from oci_criu_shim.host.attributes import Attributes


class _Number:
    """An attribute that is a number; a restore may fail to set it, if that takes a privilege."""

    def __init__(self, words: str, get: Callable[[int], int], put: Callable[[int, int], None]) -> None:
        self.words = words
        self.get = get
        self.put = put


def _file(name: str, base: int = 10) -> tuple[Callable[[int], int], Callable[[int, int], None]]:
    """Return what reads and what writes the number in a file below /proc/TID."""

    def get(thread: int) -> int:
        descriptor = os.open(f"/proc/{thread or 'self'}/{name}", os.O_RDONLY)  # open() would take three times as long
        try:
            text = os.read(descriptor, 64)
        finally:
            os.close(descriptor)
        if not text:
            raise ProcessLookupError(thread)  # it has ended, and nobody has waited for it
        return int(text, base)

    def put(thread: int, value: int) -> None:
        with open(f"/proc/{thread}/{name}", "w", encoding="ascii") as stream:
            stream.write(str(value))

    return get, put


NICE, IO_PRIORITY, TIMER_SLACK, COREDUMP_FILTER = "nice", "io_priority", "timer_slack", "coredump_filter"
NUMBERS = {
    NICE: _Number(
        "the nice value",
        lambda thread: os.getpriority(os.PRIO_PROCESS, thread),
        lambda thread, value: os.setpriority(os.PRIO_PROCESS, thread, value),
    ),
    IO_PRIORITY: _Number("the input and output priority", linux.io_priority, linux.set_io_priority),
    TIMER_SLACK: _Number("the timer slack", *_file("timerslack_ns")),
    COREDUMP_FILTER: _Number("the core dump filter", *_file("coredump_filter", 16)),
}


def note(init: int, task: int) -> dict[str, Attributes]:
    """Return {number inside: attributes} of the threads of the container of `init`, without those that have none.

    Processors are noted unless they are all that the process `task` has, or all that the container may have: then a
    restored thread has all that it finds.
    """
    whole = [os.sched_getaffinity(task), cgroups.processors(init), set(range(os.cpu_count() or 1))]
    usual = {IO_PRIORITY: _get(IO_PRIORITY, init), TIMER_SLACK: _get(TIMER_SLACK, 0)}
    usual[COREDUMP_FILTER] = _get(COREDUMP_FILTER, 0)
    noted = {}
    for leader, thread in _threads(init):
        try:
            found = _attributes(leader, thread, usual, whole)
            if found:
                noted[_number_inside(thread, init)] = found
        except ProcessLookupError:
            pass  # it has ended
    return noted


def _attributes(leader: int, thread: int, usual: dict[str, int | None], whole: list[set[int]]) -> Attributes:
    usual = {**usual, NICE: 0 if thread == leader else _get(NICE, leader)}
    if thread != leader:
        del usual[COREDUMP_FILTER]  # a process has one
    numbers = {name: _get(name, thread) for name in usual}
    found: Attributes = {n: v for n, v in numbers.items() if v is not None and v != usual[n]}  # type: ignore[assignment]
    processors = os.sched_getaffinity(thread)
    if processors not in whole:
        found["processors"] = sorted(processors)
    return found


def _get(name: str, thread: int) -> int | None:
    """Return one of the NUMBERS; None if the kernel does not tell us."""
    try:
        return NUMBERS[name].get(thread)
    except (FileNotFoundError, PermissionError):
        return None


def give_back(init: int, noted: dict[str, Attributes]) -> list[str]:
    """Set the attributes that note() has returned; return lines that say what can't be as it was."""
    here = {_number_inside(thread, init): thread for _, thread in _threads(init)} if noted else {}
    failed: dict[str, list[str]] = {}
    for number, attributes in noted.items():
        for line in _give_back(here[number], attributes) if number in here else ():
            failed.setdefault(line, []).append(number)
    return [f"{line} (in the container, thread {', '.join(numbers)})" for line, numbers in failed.items()]


def _give_back(thread: int, attributes: Attributes) -> Iterator[str]:
    for name, number in NUMBERS.items():
        value: int | None = attributes.get(name)  # type: ignore[assignment]
        try:
            if value is not None and _get(name, thread) != value:
                number.put(thread, value)
        except OSError as error:
            yield f"{number.words} was {value}, and can't be set here: {error.strerror}"
    if "processors" in attributes:
        yield from _bind(thread, set(attributes["processors"]))


def _bind(thread: int, wanted: set[int]) -> Iterator[str]:
    allowed = os.sched_getaffinity(thread)
    if both := wanted & allowed:
        try:
            os.sched_setaffinity(thread, both)
        except OSError as error:
            yield f"it was bound to processors {_ranges(wanted)}, and can't be here: {error.strerror}"
            return
    if both != wanted:
        yield (
            f"bound to processors {_ranges(wanted)}, of which this job has {_ranges(both) if both else 'none'} here:"
            f" it runs on {_ranges(both or allowed)}"
        )


def _ranges(numbers: Iterable[int]) -> str:
    """Return numbers as cpuset(7) writes them: "0-3,5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def _threads(init: int) -> Iterator[tuple[int, int]]:
    """Yield (process, thread) for each thread of a container."""
    for leader in process.tree(init):
        try:
            yield from ((leader, int(thread)) for thread in os.listdir(f"/proc/{leader}/task"))
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended


def _number_inside(thread: int, init: int) -> str:
    """Return a thread's number in the pid namespace of the container, which is that of `init`."""
    depth = len(process.status(init)["NSpid"])
    return process.status(thread)["NSpid"][depth - 1]
