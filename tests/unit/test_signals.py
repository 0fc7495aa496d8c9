"""Signals are read in the order in which they came; tried in children, since they are taken over."""

from __future__ import annotations

import os
import signal

from oci_criu_shim.host import process
from oci_criu_shim.host.signals import CHECKPOINT, START, Signals


def test_what_comes_while_another_is_waited_for_is_not_lost() -> None:
    def signalled() -> int:
        signals = Signals()
        for number in (CHECKPOINT, START, signal.SIGTERM):
            os.kill(os.getpid(), number)
        signals.wait_for(START)
        return int(signals.read() != bytes([CHECKPOINT, signal.SIGTERM]))

    assert process.wait(process.fork(signalled)) == 0


def test_what_the_caller_had_blocked_comes() -> None:
    def signalled() -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGTERM])
        os.kill(os.getpid(), signal.SIGTERM)
        signals = Signals()
        os.kill(os.getpid(), signal.SIGCHLD)
        return int(sorted(signals.read()) != sorted([signal.SIGTERM, signal.SIGCHLD]))

    assert process.wait(process.fork(signalled)) == 0
