"""Parse WHEN, for which events a job wants checkpoints (in the grammar of spank/when.c)."""

from __future__ import annotations

from oci_criu_shim import units
from oci_criu_shim.errors import ShimError

AUTO = -1
# Reasons for a checkpoint. The first two end the container, and have the job requeued; with the others it runs on.
PREEMPT, TIMEOUT, INTERVAL, SIGNAL = "preempt", "timeout", "interval", "signal"
SIGNALS = {"HUP": 1, "INT": 2, "QUIT": 3, "USR1": 10, "USR2": 12, "ALRM": 14, "URG": 23}


class When:
    """The times at which a job wants checkpoints. `interval` is in seconds, or AUTO; `signal` is a number; or None."""

    def __init__(self) -> None:
        self.preempt = False
        self.timeout = False
        self.interval: int | None = None
        self.signal: int | None = None


def parse(text: str, interval: str | None = None) -> When:
    """Parse WHEN of --checkpoint and the `interval` of --checkpoint-interval. Raise ShimError if they are invalid."""
    when = When()
    for item in text.split(","):
        name, _, value = item.partition(":")
        if item in (PREEMPT, TIMEOUT):
            setattr(when, name, True)
        elif name == INTERVAL:
            when.interval = _interval(value)
        elif name == SIGNAL and value.removeprefix("SIG") in SIGNALS:
            when.signal = SIGNALS[value.removeprefix("SIG")]
        elif item not in ("none", "off"):
            raise ShimError(
                f"{item!r} is no value of --checkpoint",
                f"preempt, timeout, interval:30m, signal:NAME ({', '.join(SIGNALS)}), or none",
            )
    if interval:
        when.interval = _interval(interval)
    return when


def _interval(text: str) -> int:
    try:
        seconds = AUTO if text == "auto" else units.parse_time(text)
    except ValueError:
        seconds = 0
    if not seconds:
        raise ShimError(f"{text!r} is not an interval for checkpoints", "such as 90s, 30m, 1h30m, 0:30:00, or auto")
    return seconds
