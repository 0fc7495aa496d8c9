"""Talk to CRIU by its RPC, and tell what its errors mean; the only module that imports pycriu."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import sys

from oci_criu_shim.errors import Killed, Misfit, ShimError, Stopped
from oci_criu_shim.host import process
from oci_criu_shim.host.progress import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType
    from typing import Any

    Message = Any
    """A protobuf message, for which pycriu has no types."""

NEEDED = (4, 2)  # older ones can't dump inet sockets on kernels from 6.16 on (SO_PASSCRED)
RESPONSE = 1 << 20
FEATURES = "/run/criu.kdat"  # where CRIU notes what the kernel can do, if root starts it
LOOK_MS = 1000  # until it is seen again whether CRIU gets on
# CRIU that has lost its client lets go of the container, and ends. What does not end after it was killed waits for a
# device, and can't be ended.
LET_GO_SECONDS, END_SECONDS = 60.0, 10.0
NO_ANSWER = "CRIU ended without an answer", "it was killed, by the kernel for want of memory perhaps: see dmesg"
INVENTORY = "inventory.img"  # without it, nobody takes the other images for a checkpoint
FILES = "files.img"  # all open files; the first image that is made only once every task is frozen and known
GHOST_LIMIT = 1 << 30  # bytes that a deleted file may have that is still open
# Errors that it logs for every container and goes on: it can't raise limits, and for a network namespace that a restore
# makes anew it looks for a sysfs, which the worker's filter refuses (spank/criu_preload.c).
IDLE = ("RLIMIT_NOFILE", "the sysfs file system")
ERROR_LINE = re.compile(r"^(?:\(\d+\.\d+\))?\s*(?:pie: )?(?:\d+: )?(Error .*)$")
# The system's packages of pycriu and jsonschema, for a Python that was started without `site`.
SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages".split(":")


def program() -> str:
    """Return the path of criu; Misfit if there is none."""
    path = process.find("criu")
    if path is None:
        raise Misfit("criu is not installed on this node", "install CRIU 4.2 or newer")
    return path


def module(name: str) -> ModuleType:
    """Import and return a module of pycriu's; ShimError if it is not installed."""
    sys.path += (directory for directory in SYSTEM_PACKAGES if directory not in sys.path)
    import importlib

    name = f"pycriu.{name}"
    try:
        _bare_package("pycriu")
        return importlib.import_module(name)
    except ImportError as error:
        raise ShimError(f"cannot import {name}: {error}", "install python3-pycriu") from None


def _bare_package(name: str) -> None:
    """Make a package's modules importable without its __init__: pycriu's imports all of them, which takes 80 ms."""
    if name in sys.modules:
        return
    from importlib.machinery import ModuleSpec, PathFinder

    found = PathFinder.find_spec(name)
    if found is None:
        raise ImportError(f"no package {name}")
    package = type(sys)(name)
    package.__spec__ = ModuleSpec(name, None, is_package=True)
    package.__path__ = list(found.submodule_search_locations or ())
    sys.modules[name] = package


class Swrk:
    """A conversation with one `criu swrk` process, CRIU's service for a single client (criu(8)).

    `terminal` is the master of the container's terminal, once a restore with `orphan_pts_master` has made it (the event
    `orphan-pts-master`); the caller closes it. If it `leads`, the process has a process group of its own.
    """

    def __init__(self, connection: socket.socket, pid: int, leads: bool = False) -> None:
        self.rpc = module("rpc_pb2")
        self.socket = connection
        self.pid = pid
        self.leads = leads
        self.terminal: int | None = None
        self.progress: Progress | None = None
        self.killed = False

    def request(
        self,
        kind: str,
        options: Mapping[str, object],
        notified: Callable[[str, int], bool] | None = None,
        progress: Progress | None = None,
    ) -> Message:
        """Send one request, and return the response.

        `notified` answers CRIU's events: it gets their name, and the pid of the init if there is one, else 0. If there
        is no `progress` for too long, CRIU is killed, and Stopped raised.
        """
        self.progress = progress
        request = self.rpc.criu_req()
        request.type = getattr(self.rpc, kind)
        fill(request.opts, options)
        self._send(request)
        while True:
            response = self._receive()
            if response.type != self.rpc.NOTIFY:
                return response
            event = response.notify
            self._answer(notified is None or notified(event.script, event.pid))
            if progress:
                progress.again()

    def version(self) -> tuple[int, ...]:
        """Ask for CRIU's version, as (4, 2, 1)."""
        request = self.rpc.criu_req()
        request.type = self.rpc.VERSION
        request.keep_open = True
        self.progress = Progress(lambda: process.tree(self.pid))
        self._send(request)
        found = self._receive().version
        return found.major_number, found.minor_number, *([found.sublevel] if found.sublevel else [])

    def _receive(self) -> Message:
        try:
            self._wait()
            data, descriptors, _, _ = socket.recv_fds(self.socket, RESPONSE, 1, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:  # it ended before it had read the last message
            raise Killed(*NO_ANSWER) from None
        if descriptors:
            self.terminal = descriptors[0]
        if not data:
            raise Killed(*NO_ANSWER)
        response = self.rpc.criu_resp()
        response.ParseFromString(data)
        return response

    def _wait(self) -> None:
        """Wait until there is something to receive; Killed if the process has ended, Stopped if it does not get on.

        The end of the socket doesn't tell: children of the process, which try what the kernel can do, have it too, and
        one of them that was traced never goes on.
        """
        ended = os.pidfd_open(self.pid)
        try:
            poll = select.poll()
            poll.register(self.socket, select.POLLIN)
            poll.register(ended, select.POLLIN)
            while not (ready := poll.poll(LOOK_MS if self.progress else None)):
                self._require_progress()
            if all(descriptor == ended for descriptor, _ in ready):
                raise Killed(*NO_ANSWER)
        finally:
            os.close(ended)

    def _require_progress(self) -> None:
        """Kill the process if it does not get on, and raise Stopped."""
        if self.progress and (seconds := self.progress.stopped()):
            waiting = self.progress.waiting()
            self.kill()
            what = f"CRIU made no progress for {seconds:.0f} s, and was ended"
            raise Stopped(f"{what}: {waiting}" if waiting else what)

    def kill(self) -> None:
        """Kill the process, and its group if it leads one."""
        self.killed = True
        (os.killpg if self.leads else os.kill)(self.pid, signal.SIGKILL)

    def _answer(self, success: bool) -> None:
        answer = self.rpc.criu_req()
        answer.type = self.rpc.NOTIFY
        answer.notify_success = success
        self._send(answer)

    def _send(self, message: Message) -> None:
        try:
            self.socket.send(message.SerializeToString())
        except ConnectionError:
            raise Killed(*NO_ANSWER) from None

    def close(self) -> None:
        """End the conversation, and with it the process, and its children if it leads them.

        CRIU ends by itself when the conversation does, unless it hangs, too.
        """
        self.socket.close()
        if not process.ends_within(self.pid, END_SECONDS if self.killed else LET_GO_SECONDS):
            self.kill()
            if not process.ends_within(self.pid, END_SECONDS):
                return
        if self.leads:
            self.kill()  # until it is reaped, its group is nobody else's
        process.wait(self.pid)


def start(env: Mapping[str, str], log: int, more: Mapping[int, int] | None = None) -> Swrk:
    """Start a `criu swrk` process with the environment `env`, `log` as standard error, its connection, and `more`
    descriptors ({number there: number here})."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = process.spawn([program(), "swrk", "3"], env, {3: theirs.fileno(), 2: log, **(more or {})}, leads=True)
    theirs.close()
    return Swrk(ours, pid, leads=True)


def fill(message: Message, values: Mapping[str, object]) -> None:
    """Set the fields of a protobuf `message`: lists of strings, and dicts, also in lists, for submessages."""
    for name, value in values.items():
        if isinstance(value, list):
            field = getattr(message, name)
            for item in value:
                if isinstance(item, dict):
                    fill(field.add(), item)
                else:
                    field.append(item)
        elif isinstance(value, dict):
            fill(getattr(message, name), value)
        elif isinstance(value, str) and name in ("network_lock", "manage_cgroups_mode"):
            enum = message.DESCRIPTOR.fields_by_name[name].enum_type
            setattr(message, name, enum.values_by_name[value].number)
        else:
            setattr(message, name, value)


def errors(log: str) -> list[str]:
    """Return the error lines of CRIU's log file `log`, in their order, each once, those that say why."""
    try:
        with open(log, encoding="utf-8", errors="replace") as stream:
            found = [match[1] for line in stream if (match := ERROR_LINE.match(line[:LONGEST].rstrip("\n")))]
    except OSError:
        return []
    once = {NUMBER.sub("#", line): line for line in reversed(found) if not any(words in line for words in IDLE)}
    lines = list(reversed(once.values()))
    return [line for line in lines if not any(words in line for words in VERDICTS)] or lines


def summary(lines: list[str]) -> str:
    """Return error lines as one: the first few, and one that has a meaning; empty if there are none."""
    explained = [line for line in lines if meaning([line])][:1]
    kept = explained + [line for line in lines if line not in explained][: SHOWN - len(explained)]
    return " | ".join(sorted(kept, key=lines.index))


def last_words(stopped: Stopped, log: str) -> str:
    """Return why CRIU was ended, with the errors of its log file `log`."""
    return " | ".join(filter(None, (str(stopped), summary(errors(log)))))


FULL = "the checkpoint directory is full"
# (pattern of CRIU's error line, without the name of its source file; its meaning for a container here). The first that
# fits is shown.
MEANINGS = (
    (r"Tracking memory is not available", "the kernel must be one that tracks what memory is written (soft-dirty)"),
    (r"io_uring", "a process uses io_uring, which CRIU cannot dump"),
    (r"kerndat_tcp_repair", "lo is down in the network namespace that it joins: ip link set lo up"),
    (r"doesn't live in IPC ns", "a process uses System V shared memory of the node: use an ipc namespace"),
    (r"infiniband|uverbs", "a process uses InfiniBand verbs, which CRIU cannot dump"),
    (r"Can't shutdown socket into", "a TCP connection could not be closed: lo must be up here, with its addresses"),
    (r"Connected TCP socket in image", "--tcp-established keeps its TCP connections, --tcp-close closes them"),
    (r"Connected TCP socket", "a TCP connection is open: have the program close it before the checkpoint"),
    (r"TCP repair mode", "a TCP connection is open, in a network that is not the user's"),
    (r"recvmsg fail.*No data available", "an empty message waits in a Unix socket: checkpoint once it was read"),
    (r"corked dgram", "a UDP socket holds back what was written to it (UDP_CORK)"),
    (r"ghost file.*too big|Can't dump ghost file", "a deleted file that is still open is too large"),
    (r"external socket|unix socket \d+ without peer", "a unix socket leads out of the container"),
    (r"Can't lookup mount|doesn't have a proper root mount", "a file is open on a mount that is not in the container"),
    (r"in victim: Too many open files", "a process has as many files open as it may: it needs a few more (ulimit -n)"),
    (r"No space left|Disk quota", FULL),
    (r"shell job|--shell-job|session leader", "a process belongs to a session outside of the container"),
    (r"No task found with sid", "it was checkpointed with --shell-job, and is restored with it"),
    (r"Don't have tty to inherit", "--shell-job needs a terminal to give to the container, as standard input"),
    (r"mismatched lsm types", "it has an AppArmor profile, which CRIU sees none of here: `oci-criu-shim doctor`"),
    (r"Can't dump that handle", "a process watches a file (inotify) whose path is not known: it was removed, perhaps"),
    (r"has bad (size|build-ID|mode)", "a file that it had open has changed since the checkpoint"),
    (r"nested (user|pid|net|ipc|uts|cgroup|time) namespace", "a program has made a namespace of its own (a sandbox?)"),
    (r"Nested mount namespaces", "a program has made a mount namespace of its own (a sandbox?)"),
    (r"\(chr 10:229\b", "a process serves a FUSE file system, which ends with it: unmount it first"),
    (r"Escaped/closed fd descriptor", "a program closed a descriptor while its epoll set still has it: see epoll(7)"),
    (r"\(family 40\)", "a process has a socket to the virtual machine's host (AF_VSOCK), which CRIU cannot dump"),
    (r"Unknown socket collected", "a process has a socket of a kind that CRIU cannot dump"),
    (
        r"Unseizable non-zombie \d+ found, state D",
        "the process waits for a device or a file system and can't be stopped",
    ),
    (r"unsupported stop signal", "a process is stopped by its terminal (SIGTTIN, SIGTTOU): continue it"),
    (r"Unseizable non-zombie|ptrace|seize", "a process is being traced by another program (a debugger?)"),
    (r"suspend(ing)? seccomp", "a seccomp filter of a process's own may forbid what CRIU does last in it"),
)
SHOWN = 3  # lines
LONGEST = 1000  # characters of a line that are looked at: the programs that CRIU runs write there, too
NUMBER = re.compile(r"\b(0x)?[0-9a-f]*\d[0-9a-f]*\b")
# Words that say why only if there are no others. A restore without privilege can never suspend seccomp, and mostly need
# not.
VERDICTS = (
    *("Dumping FAILED", "Restoring FAILED", "Restorer fail", "Killing processes because of failure"),
    *("suspending seccomp failed", "failed to suspend seccomp"),
)
SOURCE = re.compile(r"^Error \([\w./-]+:\d+\): ")


# What CRIU says if a restore fails for what is in the images, or in a directory that it may not write.
ALIKE = re.compile(r"Connected TCP socket in image|No task found with sid|ghost.*Permission denied")


def fails_everywhere(lines: list[str]) -> bool:
    """Return whether CRIU's error lines tell of a restore that would fail on any node."""
    return any(map(ALIKE.search, lines))


def meaning(lines: list[str]) -> str:
    """Return the meaning of CRIU's error lines in a user's words; empty if it isn't known."""
    text = "\n".join(SOURCE.sub("", line) for line in lines)
    for pattern, words in MEANINGS:
        if re.search(pattern, text, re.IGNORECASE):
            return words
    return ""


def version(env: Mapping[str, str]) -> tuple[int, ...]:
    """Run `criu --version`, and return the version as (4, 2, 1)."""
    status, text, errors = process.output([program(), "--version"], env)
    match = re.search(r"Version: (\d+(?:\.\d+)*)", text)
    if status or not match:
        raise ShimError(f"criu --version failed: {errors.strip() or text.strip()}", "install CRIU again")
    return tuple(int(part) for part in match[1].split("."))


def supports(program: str, feature: str) -> bool:
    """Return whether CRIU finds a kernel feature, by a name of `criu check --feature`, without its cache."""
    argv = [program, "check", "--unprivileged", "--feature", feature]
    return process.output(argv, {"PATH": process.PATH, "LANG": "C.UTF-8"})[0] == 0


def note_features(program: str) -> None:
    """Have CRIU note what the kernel can do, unless it has done so since the node was booted.

    It could not find out in a network namespace whose loopback device is down (kerndat_tcp_repair() in criu/kerndat.c).
    """
    if not os.path.exists(FEATURES):
        process.output([program, "check", "--feature", "timens"], {"PATH": process.PATH, "LANG": "C.UTF-8"})


def bindings() -> str:
    """Return the path of pycriu; ShimError if it can't be imported."""
    return str(module("images").__file__)


def require_bindings(made: tuple[int, ...]) -> None:
    """Raise Misfit if pycriu is older than CRIU `made`: images that are changed for a restore would lose what it does
    not know of them."""
    bindings()
    try:
        text = str(module("version").__version__)
    except ShimError:
        text = "4.1"  # the last one without it
    if tuple(int(part) for part in re.findall(r"\d+", text)[:2]) < made[:2]:
        said = f"pycriu {text} is older than CRIU {'.'.join(map(str, made))}, and doesn't know all of its images"
        raise Misfit(said, "install python3-pycriu of the same version")


def require_version(found: tuple[int, ...]) -> None:
    """Raise ShimError if CRIU is too old for this kernel."""
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    if found < NEEDED and release >= (6, 16):
        raise ShimError(
            f"CRIU {'.'.join(map(str, found))} is too old for Linux {os.uname().release}",
            "install CRIU 4.2 or newer",
        )
