"""Check that plugstack.conf names the plugin once, and that slurmd has loaded it."""

from __future__ import annotations

import os
import stat
import time

from oci_criu_shim.cli.doctor import installation, lines, roots, settings
from oci_criu_shim.cli.doctor.installation import PLUGIN
from oci_criu_shim.cli.doctor.slurmconf import RECONFIGURE
from oci_criu_shim.cli.doctor.verdicts import Caution, Skipped
from oci_criu_shim.errors import ShimError
from oci_criu_shim.files import LIBDIR
from oci_criu_shim.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_criu_shim.cli.doctor.lines import Line
    from oci_criu_shim.cli.doctor.slurmconf import SlurmConf

METRICS, LOCAL_SECONDS = "metrics=", "local-seconds="
DAEMON = "slurmd"
NOT_LOADED = "no container starts here"
LONGEST = 86400  # seconds, as in arguments.c
# A node without a slurm.conf of its own writes plugstack.conf when its slurmd starts.
WRITTEN_AT_START = 10.0  # seconds


class Plugstack:
    """The lines of plugstack.conf and of the files that it includes (spank(7))."""

    def __init__(self, conf: SlurmConf) -> None:
        self.conf = conf

    def path(self) -> str:
        """Return the path of plugstack.conf; raise Skipped if there is no Slurm."""
        named = self.conf.said.get("PlugStackConfig", "") if self.conf.said else ""
        return named if named.startswith("/") else os.path.join(self.conf.directory(), "plugstack.conf")

    def ours(self) -> list[Line]:
        """Return the lines that name the plugin."""
        found = lines.read_all(self.path(), add(self.path()))
        return [line for line in found if len(line.words) > 1 and os.path.basename(line.words[1]) == PLUGIN]

    def check(self) -> str:
        """Check that plugstack.conf names the plugin once, and that it is there."""
        path, ours = self.path(), self.ours()
        if not ours:
            raise ShimError(f"{path} does not name {PLUGIN}", add(path))
        if len(ours) > 1:
            places = ", ".join(f"line {line.number} of {line.path}" for line in ours)
            raise ShimError(
                f"{PLUGIN} is named {len(ours)} times, and loaded as often: {places}",
                f"leave one of these lines, then {RECONFIGURE}",
            )
        for file in dict.fromkeys((path, ours[0].path)):
            roots.require(file, "root loads what it names")
            roots.require_readable(file, "sbatch and srun fail")
        self.require_plugin(ours[0])
        require_arguments(ours[0])
        self.require_time_to_copy(ours[0])
        return f"{path}: {' '.join(ours[0].words)}"

    def require_plugin(self, line: Line) -> None:
        """Raise ShimError or Caution if what a line names is not the plugin of this installation."""
        file, own = self.file(line.words[1]), f"{LIBDIR}/{PLUGIN}"
        if not os.path.exists(file):
            if file == own:
                raise Skipped(f"{file} is missing: see `installation`")
            hint = f"correct the path: it is {own}" if os.path.exists(own) else installation.INSTALL
            raise ShimError(f"{line.path} names {file}, which is not there", hint)
        roots.require(file, "root loads it")
        if installation.is_one() and os.path.exists(own) and not os.path.samefile(file, own):
            raise Caution(f"{line.path} names {file}: it is not the one of {LIBDIR}", f"name {own}")
        if line.words[0] != "required":
            said = f"{line.path}: {line.words[0]} {file}: left out in silence if it can't be loaded"
            raise Caution(said, "write required")

    def require_time_to_copy(self, line: Line) -> None:
        """Raise Caution if the epilog has little time to copy what is in `local-dir`, or Slurm gives it less."""
        try:
            is_wanted = bool(settings.usable()[0].local_dir)
        except Skipped:
            is_wanted = False  # of what is wrong there, its own check tells
        if not is_wanted:
            return
        given = max(filter(None, map(seconds, line.words[2:])), default=0)
        if not given:
            few = f"{line.path}: without {LOCAL_SECONDS}N, 30 s are all that there is to copy checkpoints of local-dir"
            raise Caution(few, f"end the line with {LOCAL_SECONDS}600, say: docs/local.md")
        said = self.conf.said or {}
        for name in ("EpilogTimeout", "PrologEpilogTimeout"):
            limit = said.get(name, "").split(" ")[0]
            if limit.isdecimal() and int(limit) < given + 30:
                raise Caution(f"{name}={limit}: Slurm ends the epilog before {given} s", f"{name}={given + 60}")

    def file(self, named: str) -> str:
        """Return the path of a plugin as Slurm finds it: a relative one in PluginDir."""
        if named.startswith("/"):
            return named
        paths = [os.path.join(directory, named) for directory in self.conf.values().get("PluginDir", "").split(":")]
        return next(filter(os.path.exists, paths), paths[0])

    def loaded(self) -> str:
        """Check that this node's slurmd has loaded the plugin: root sees what it has, users see how old it is."""
        try:
            ours = self.ours()
        except Skipped:
            raise
        except ShimError:
            ours = []
        if len(ours) != 1:
            raise Skipped("plugstack.conf does not name the plugin once")
        if (pid := slurmd()) is None:
            raise Skipped("no slurmd runs on this machine")
        try:
            with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as stream:
                is_loaded = any(PLUGIN in line for line in stream)
        except FileNotFoundError:
            raise Skipped("slurmd has just ended") from None
        except PermissionError:
            return by_age(pid, self.begun(pid), dict.fromkeys((self.path(), ours[0].path)))
        if not is_loaded:
            raise ShimError(f"slurmd (process {pid}) has not loaded the plugin: {NOT_LOADED}", RECONFIGURE)
        return f"process {pid} has loaded the plugin"

    def begun(self, pid: int) -> float:
        """Return when slurmd began, in seconds since the epoch.

        One in the foreground (`slurmd -D`) begins anew in the same process at `scontrol reconfigure`, and writes its
        pid again.
        """
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - (process.start_time(pid) or 0) / os.sysconf("SC_CLK_TCK")
        file = (self.conf.said or {}).get("SlurmdPidFile", "")
        try:
            return max(time.time() - age, os.stat(file).st_mtime)
        except OSError:
            return time.time() - age


def add(path: str) -> str:
    """Return how to have plugstack.conf name the plugin.

    Not by an include: Slurm ignores one of a file that is not there, so a node without the plugin would run jobs.
    """
    return f"cat {installation.share()}/plugstack.conf >>{path}; {RECONFIGURE}"


def require_arguments(line: Line) -> None:
    """Raise Caution if the plugin does not understand its arguments, or can't count in the directory of `metrics`."""
    for word in line.words[2:]:
        if seconds(word) is not None:
            continue
        directory = word.removeprefix(METRICS)
        if not word.startswith(METRICS) or not directory.startswith("/"):
            hint = f"write {METRICS}/DIRECTORY or {LOCAL_SECONDS}N"
            raise Caution(f"{line.path}: {word} means nothing to the plugin", hint)
        if not os.path.isdir(directory):
            raise Caution(f"{line.path}: {word}: no such directory", f"mkdir -m 755 {directory}")
        if os.stat(directory).st_mode & stat.S_IWOTH:
            raise Caution(f"{line.path}: {word}: everybody can write there, so nothing is counted", "name another one")


def seconds(word: str) -> int | None:
    """Return how long the epilog may take to copy checkpoints, as an argument of the plugin's says; None if it says
    something else."""
    digits = word.removeprefix(LOCAL_SECONDS)
    is_one = word.startswith(LOCAL_SECONDS) and digits.isascii() and digits.isdecimal() and int(digits) <= LONGEST
    return int(digits) if is_one else None


def slurmd() -> int | None:
    """Return the pid of this node's slurmd: root's, in this pid namespace, and not the child of another one."""
    found = dict(daemons())
    return next((pid for pid, parent in found.items() if parent not in found), None)


def daemons() -> Iterator[tuple[int, int]]:
    """Yield (pid, parent's pid) of root's processes that are called slurmd."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            status = process.status(int(name))
        except (ProcessLookupError, PermissionError):
            continue
        if status["Name"] == [DAEMON] and status["Uid"][0] == "0" and len(status["NSpid"]) == 1:
            yield int(name), int(status["PPid"][0])


def by_age(pid: int, begun: float, paths: dict[str, None]) -> str:
    """Raise Caution if one of the files was changed after the process began."""
    for path in paths:
        if os.stat(path).st_mtime > begun + WRITTEN_AT_START:
            raise Caution(
                f"{path} was changed after slurmd was started, which may not have loaded the plugin: then {NOT_LOADED}",
                f"root: {RECONFIGURE}",
            )
    return f"process {pid} is younger than plugstack.conf"
