"""Metrics: what helpers count, and that nothing of a user's gets in there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .support import CHECK, GID, GROUP, OTHER_UID, UID, Case, Program, call, connect, is_alive, stepd

BEGUN, DONE, SETUP, REFUSED, CRIU, UNCOMMITTED, KILLED = range(7)
NAMES = {SETUP: "setup", REFUSED: "refused", CRIU: "criu", UNCOMMITTED: "uncommitted", KILLED: "killed"}
DUMPS, BYTES, SECONDS, FAILURES = (
    f"oci_criu_shim_{name}_total" for name in ("dumps", "dump_bytes", "dump_seconds", "dump_failures")
)
DIRECTORY = CHECK / "metrics"
FILE = DIRECTORY / "oci_criu_shim.prom"


def report(outcome: int, size: int = 0, nanoseconds: int = 0, version: int = 1) -> bytes:
    return struct.pack("=IIQQ", version, outcome, size, nanoseconds)


def failure(cause: int) -> str:
    return f'{FAILURES}{{cause="{NAMES[cause]}"}}'


def samples() -> dict[str, str]:
    """What the file says, but for what is 0; it has the form that Prometheus documents."""
    found = {}
    for line in FILE.read_text().splitlines():
        if not line.startswith("#"):
            name, _, value = line.partition(" ")
            assert re.fullmatch(r'[a-z_]+(\{cause="[a-z]+"\})?', name), line
            found[name] = value
    return {name: value for name, value in found.items() if float(value)}


class Counting(Case):
    """A helper that counts."""

    def setUp(self) -> None:
        super().setUp()
        shutil.rmtree(DIRECTORY, ignore_errors=True)
        DIRECTORY.mkdir(mode=0o755)
        self.addCleanup(shutil.rmtree, DIRECTORY)
        call("prolog")
        self.job().chmod(0o755)
        self.path, self.helper = self.start(0)

    def start(self, step: int) -> tuple[Path, Program]:
        path = self.job() / f"helper.{step}.sock"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o666)
        (tasks,) = self.files("freezer/tasks")
        with tasks.open("w") as group:
            helper = Program("helper", 7, step, UID, GID, GROUP, DIRECTORY, fds=(listener.fileno(), group.fileno()))
        listener.close()
        self.addCleanup(lambda: helper.process.poll() is None and helper.end())
        return path, helper

    def write(self, *reports: bytes, path: Path | None = None) -> None:
        """Have a worker write reports, and wait for its end."""
        with connect(path or self.path, b"write " + b"".join(reports).hex().encode()) as connection:
            pid = int(connection.recv(64))
        self.wait_for(lambda: not is_alive(pid), "the worker to end")

    def test_dumps(self) -> None:
        self.write(report(BEGUN), report(DONE, 4096, 5))
        self.write(report(BEGUN), report(DONE, 1, 1_000_000))
        self.assertEqual(self.helper.end(), "")
        self.assertEqual(samples(), {DUMPS: "2", BYTES: "4097", SECONDS: "0.001000005"})
        self.assertEqual(stat.S_IMODE(FILE.stat().st_mode), 0o644)
        self.assertEqual(sorted(path.name for path in DIRECTORY.iterdir()), [f".{FILE.name}.lock", FILE.name])

    def test_form(self) -> None:
        self.write(report(BEGUN), report(CRIU))
        self.helper.end()
        text = FILE.read_text()
        for name in (DUMPS, BYTES, SECONDS, FAILURES):
            self.assertRegex(text, rf"(?m)^# HELP {name} [A-Z].*\.$")
            self.assertEqual(text.count(f"# TYPE {name} counter\n"), 1)
        causes = re.findall(rf'^{FAILURES}{{cause="(.*)"}} \d+$', text, re.MULTILINE)
        self.assertEqual(causes, list(NAMES.values()))

    def test_failures(self) -> None:
        for cause in (SETUP, REFUSED, CRIU, UNCOMMITTED, CRIU):
            self.write(report(BEGUN), report(cause, 4096, 5))
        self.assertEqual(self.helper.end(), "")
        counts = {SETUP: "1", REFUSED: "1", CRIU: "2", UNCOMMITTED: "1"}
        self.assertEqual(samples(), {failure(cause): count for cause, count in counts.items()})

    def test_a_killed_worker(self) -> None:
        with connect(self.path, b"write " + report(BEGUN).hex().encode() + b".") as connection:
            os.kill(int(connection.recv(64)), signal.SIGKILL)
        self.wait_for(FILE.exists, "the count")
        self.assertEqual(samples(), {failure(KILLED): "1"})

    def test_a_step_that_ends_meanwhile(self) -> None:
        with connect(self.path, b"write " + report(BEGUN).hex().encode() + b".") as connection:
            connection.recv(64)
            self.assertEqual(self.helper.end(), "")
        self.assertEqual(samples(), {failure(KILLED): "1"})

    def test_nothing_was_asked(self) -> None:
        with connect(self.path, b"hold") as connection:
            os.kill(int(connection.recv(64)), signal.SIGKILL)
        with connect(self.path, b"report") as connection:
            found = connection.recv(1 << 16).decode()
        self.assertEqual(self.helper.end(), "")
        self.assertEqual(list(DIRECTORY.iterdir()), [])
        self.assertIn('"report"]', found)
        self.assertIn('"4": "pipe:', found)
        self.assertNotIn('"5": ', found)

    def test_what_is_no_report(self) -> None:
        wrong = [
            (report(DONE),),
            (report(BEGUN), report(BEGUN)),
            (report(BEGUN), report(KILLED)),
            (report(BEGUN), report(99)),
            (report(BEGUN), report(DONE, version=2)),
            (report(BEGUN), report(DONE, nanoseconds=1 << 63)),
            (report(BEGUN), report(DONE)[:7]),
            (report(BEGUN)[:7],),
        ]
        for reports in wrong:
            self.write(*reports)
        said = self.helper.end()
        self.assertEqual(said.count("a worker's report is none"), len(wrong), said)
        self.assertFalse(FILE.exists())

    def test_no_more_bytes_than_memory(self) -> None:
        self.write(report(BEGUN), report(DONE, (1 << 64) - 1, 1))
        self.helper.end()
        memory = Path("/proc/meminfo").read_text()
        total = sum(int(size) for size in re.findall(r"^(?:MemTotal|SwapTotal): +(\d+) kB", memory, re.MULTILINE))
        self.assertEqual(int(samples()[BYTES]), total << 10)

    def test_several_helpers(self) -> None:
        paths = [self.path, *(self.start(step)[0] for step in (1, 2))]
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(lambda path: self.several(path, 4), paths):
                pass
        self.wait_for(lambda: FILE.exists() and samples().get(DUMPS) == "12", "all to be counted")
        self.assertEqual(samples()[BYTES], str(12 * 4096))

    def several(self, path: Path, count: int) -> None:
        for _ in range(count):
            self.write_beside_others(path)

    def write_beside_others(self, path: Path) -> None:
        """write(), but in a process: connect() changes the ids of all threads."""
        program = ["import socket, sys", "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)"]
        program += ["s.connect(sys.argv[1])", "s.send(sys.argv[2].encode())", "s.recv(64)"]
        order = f"write {(report(BEGUN) + report(DONE, 4096, 1)).hex()}"
        argv = ["python3", "-c", "\n".join(program), str(path), order]
        pid = os.posix_spawnp("setpriv", ["setpriv", f"--reuid={UID}", "--clear-groups", *argv], os.environ)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)

    def test_what_was_counted_before(self) -> None:
        junk = f'{"x" * 5000} 1\n\n{DUMPS}_more 3\n{FAILURES}{{cause="evil"}} 1\n{FAILURES} 7\nevil 1\n'
        FILE.write_text(f"{junk}{DUMPS} 41\n{SECONDS} 1.500000000\n{BYTES} {(1 << 64) - 2}\n{failure(CRIU)} 3\n")
        self.write(report(BEGUN), report(DONE, 4096, 5))
        self.assertEqual(self.helper.end(), "")
        expected = {DUMPS: "42", SECONDS: "1.500000005", BYTES: str((1 << 64) - 1), failure(CRIU): "3"}
        self.assertEqual(samples(), expected)
        self.assertNotIn("evil", FILE.read_text())

    def test_links_are_not_followed(self) -> None:
        outside = CHECK / "outside.prom"
        outside.write_text(f"{DUMPS} 9\n")
        self.addCleanup(outside.unlink)
        for name in (FILE.name, f"{FILE.name}.new"):
            (DIRECTORY / name).symlink_to(outside)
        self.write(report(BEGUN), report(DONE, 1, 1))
        self.assertEqual(self.helper.end(), "")
        self.assertEqual((samples()[DUMPS], outside.read_text()), ("1", f"{DUMPS} 9\n"))
        self.assertFalse(FILE.is_symlink())

    def test_where_it_is_not_counted(self) -> None:
        lock = DIRECTORY / f".{FILE.name}.lock"

        def open_to_all() -> None:
            DIRECTORY.chmod(0o777)

        def give_away() -> None:
            DIRECTORY.chmod(0o755)
            lock.touch()
            os.chown(lock, OTHER_UID, GID)

        def link() -> None:
            lock.unlink()
            lock.symlink_to("/dev/null")

        def remove() -> None:
            shutil.rmtree(DIRECTORY)

        # A helper each: it counts a dump only after the worker's end, but before its own.
        for step, spoil in enumerate((open_to_all, give_away, link, remove), 1):
            spoil()
            path, helper = self.start(step)
            self.write(report(BEGUN), report(DONE, 1, 1), path=path)
            said = helper.end()
            self.assertEqual(said.count(f"metrics in {DIRECTORY}: "), 1, (spoil.__name__, said))
            self.assertFalse(FILE.exists())
        DIRECTORY.mkdir()


class Arguments(Case):
    """Of the line in plugstack.conf."""

    def helper_of(self, *arguments: str) -> tuple[list[str], str]:
        """The arguments of the helper that a step starts, and what slurmstepd logs."""
        self.groups()
        call("prolog", {"checkpoint": None})
        with stepd({"checkpoint": None}, arguments=arguments) as step:
            (pid,) = step.children()
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
            return words[words.index(f"{CHECK}/lib/helper") + 1 :], step.end()

    def test_metrics(self) -> None:
        always = ["7", "0", str(UID), str(GID), GROUP]
        self.assertEqual(self.helper_of(), (always, ""))
        self.assertEqual(self.helper_of(f"metrics={DIRECTORY}"), ([*always, str(DIRECTORY)], ""))

    def test_unknown(self) -> None:
        texts = ("metrics", "metrics=here", "verbose=1")
        words, said = self.helper_of(*texts)
        self.assertEqual(len(words), 5)
        self.assertEqual(said.count("\n"), len(texts), said)
        for text in texts:
            self.assertIn(f"plugstack.conf: {text}: not known", said)
