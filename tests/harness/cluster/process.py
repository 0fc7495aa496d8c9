"""The one door through which other programs are started."""

from __future__ import annotations

import os
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from .errors import ClusterError
from .waiting import patient

File = int | IO[bytes] | None

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
"""Prefix of an argv: the program is killed when the *thread* that started it ends (prctl(2), PR_SET_PDEATHSIG)."""


def environment() -> dict[str, str]:
    """What programs of the harness get to see: a fixed locale and path, and the site's proxies."""
    proxies = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
    return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", **proxies}


def spawn(
    argv: Sequence[str],
    *,
    stdin: File = subprocess.DEVNULL,
    stdout: File = subprocess.PIPE,
    stderr: File = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    new_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start argv; no descriptor but the three standard ones is passed on."""
    return subprocess.Popen(
        list(argv),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=dict(environment() if env is None else env),
        cwd=cwd,
        start_new_session=new_session,
    )


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    input: str | None = None,
    timeout: float | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run argv to its end and return what it wrote.

    Raise ClusterError for a status other than 0 (with check), subprocess.TimeoutExpired after `timeout` seconds of an
    idle machine.
    """
    stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
    with spawn(argv, stdin=stdin, cwd=cwd) as child:
        try:
            out, err = child.communicate(None if input is None else input.encode(), timeout and patient(timeout))
        except BaseException:
            child.kill()
            raise
    done = subprocess.CompletedProcess(list(argv), child.returncode, _text(out), _text(err))
    if check and done.returncode:
        raise ClusterError(f"{shown(argv)}: status {done.returncode}\n{tail(done.stdout + done.stderr)}")
    return done


def shown(argv: Sequence[str]) -> str:
    """A command line for a message: scripts and long lists cut short."""
    words = (argument.strip().split("\n")[0] for argument in argv)
    return textwrap.shorten(" ".join(words), 160, placeholder=" ...")


def tail(text: str, lines: int = 20) -> str:
    """The last lines of a text, indented for quoting."""
    return "\n".join("  " + line for line in text.splitlines()[-lines:])


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
