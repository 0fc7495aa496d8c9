"""Run the backends, which create containers; no other module knows their command lines and files."""

from __future__ import annotations

import os

from oci_criu_shim import files
from oci_criu_shim.container.record import RESOURCES
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.container.record import Container, Record
    from oci_criu_shim.files import Document
    from oci_criu_shim.log import Log

DEFAULT = "crun"
# Backends that an annotation may name: config.json may come from an image, and a path from there must not be run.
KNOWN = ("crun", "runc", "nvidia-container-runtime")
KNOWN_ONLY = "known only"  # among the caller's options: run no backend but the known ones (cli/stepdown.py)
ANNOTATION = "oci-criu-shim.backend"
DIALECTS = ("crun", "runc")  # also the programs whose dialect is known by their name
MANAGERS = ("cgroupfs", "systemd", "disabled")
EMPTY = ".empty-directory"  # in crun's root directory
# Verbs and options that not every backend has, as its help tells, each with a hint what to do without it.
UNCOMMON = {
    "events": "read the files of its control group instead",
    "--additional-gids": "name them in a file for --process",
    "--config": "name the file config.json",
    "--file": "it writes config.json",
    "--ignore-paused": "resume the container first",
}


def choose(option: str | None, bundle: Bundle) -> str:
    """Return the backend for `bundle`: the command line's `option`, else the bundle's annotation, else the site's.

    Raise ShimError if the annotation names an unknown one.
    """
    if option:
        return option
    named = bundle.config.get("annotations", {}).get(ANNOTATION)
    if named is None:
        from oci_criu_shim import config

        return config.backend() or DEFAULT
    if named not in KNOWN:
        raise ShimError(f"annotation {ANNOTATION} names {named!r}", f"known: {', '.join(KNOWN)}")
    return str(named)


def holder(root: str, name: str) -> str | None:
    """Return the backend that has a container `name` below `root`; None if none has."""
    for program in programs(root):
        if os.path.isdir(os.path.join(directory(root, program), name)):
            return program
    return None


def programs(root: str) -> list[str]:
    """Return the backends that have or had containers below `root`."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    places = [name for name in names if name.startswith(".") and os.path.isdir(os.path.join(root, name))]
    return [name[1:].replace(":", "/") for name in places]


def directory(root: str, program: str) -> str:
    """Return the directory below `root` in which the backend `program` keeps its containers."""
    return os.path.join(root, "." + program.replace("/", ":"))


def empty_directory(root: str) -> str:
    """Return the directory that crun mounts over each directory in linux.maskedPaths; it is made if it is missing.

    See get_shared_empty_directory_path() in src/libcrun/status.c of crun 1.28. Up to 1.27 crun mounts a tmpfs there.
    """
    path = os.path.join(directory(root, DEFAULT), EMPTY)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        os.mkdir(path, 0o555)
    except FileExistsError:
        pass
    return path


class Backend:
    """One backend, which keeps its state in `<root>/.<its name>/`.

    `globals` are the caller's options, of which it gets --log, --systemd-cgroup and the like. `dialect` is given if it
    is known already.
    """

    def __init__(
        self, program: str, root: str, globals: Mapping[str, str], log: Log, dialect: str | None = None
    ) -> None:
        if KNOWN_ONLY in globals and program not in KNOWN:
            raise ShimError(f"root does not have a user run {program!r}", f"known: {', '.join(KNOWN)}")
        self.program = program
        self.name = os.path.basename(program)
        self.root = directory(root, program)
        self.globals = globals
        self.log = log
        self._dialect = dialect or (self.name if self.name in DIALECTS else None)

    @property
    def leaves_streams(self) -> bool:
        """Whether a container in its foreground holds the very streams that the backend was given.

        runc 1.1 copies them to and from pipes of its own (setupProcessPipes() in tty.go).
        """
        return self.dialect == "crun"

    @property
    def dialect(self) -> str:
        """Whose options it takes, and whose names its containers' images have: "crun" or "runc".

        Every backend but crun counts as runc. --version tells them apart, whatever the program is called;
        nvidia-container-runtime adds the version of the backend that it runs.
        """
        if self._dialect is None:
            _, text, _ = process.output([self._path(), "--version"], os.environ, self.log)
            self._dialect = "crun" if any(line.startswith("crun ") for line in text.splitlines()) else "runc"
        return self._dialect

    def record(self) -> Record:
        """Return its fields of a container's record, so that no later verb needs to find them out again."""
        return {"backend": self.program, "dialect": self.dialect}

    @property
    def makes_groups(self) -> bool:
        """Whether it makes a control group for an ordinary user's container."""
        return self._cgroup_manager() not in (None, "disabled")

    def knows(self, container: Container) -> bool:
        """Whether it has a container of this name."""
        return os.path.isdir(os.path.join(self.root, container.name))

    def call(self, verb: str, *words: str) -> int:
        """Run one of its verbs on our own descriptors; return the exit status."""
        argv = self.argv(verb, *words)
        self.log.debug("running: " + " ".join(argv))
        return process.exit_status(process.wait(os.posix_spawn(argv[0], argv, dict(os.environ))))

    def spawn(self, verb: str, *words: str, fds: Mapping[int, int]) -> int:
        """Start one of its verbs on the descriptors `fds`, as process.spawn() does; return its pid."""
        return process.spawn(self.argv(verb, *words), os.environ, fds, self.log)

    def output(self, verb: str, *words: str) -> tuple[int, str, str]:
        """Run one of its verbs; return its exit status, output and errors, as process.output() does."""
        return process.output(self.argv(verb, *words), os.environ, self.log)

    def become(self, verb: str, *words: str) -> NoReturn:
        """Turn this process into the backend."""
        argv = self.argv(verb, *words)
        self.log.debug("becoming: " + " ".join(argv))
        os.execv(argv[0], argv)

    def require(self, verb: str, words: Sequence[str]) -> None:
        """Raise ShimError if it lacks the verb, or one of the options among `words`."""
        asked = [name for name in (verb, *(word.partition("=")[0] for word in words)) if name in UNCOMMON]
        if not asked:
            return
        status, text, _ = self.output(verb, "--help")
        known = {word.partition("=")[0] for word in text.replace(",", " ").split()} if status == 0 else set()
        for name in asked:
            if name not in known:
                what = f"{verb} {name}" if name != verb else verb
                raise ShimError(f"{self.name} has no `{what}`", UNCOMMON[name])

    def state(self, container: Container) -> Document:
        """Return the specification's state of `container` (runtime.md, State). Raise ShimError if it has none."""
        status, text, errors = self.output("state", container.name)
        if status:
            raise ShimError(errors.strip() or f"{self.name} state: exit status {status}")
        found: Document = files.parse_json(text)
        return found

    def argv(self, verb: str, *words: str) -> list[str]:
        """Return the command line of one of its verbs. Raise ShimError if it is not installed."""
        argv = [self._path(), "--root", self.root]
        argv += [f"--{key}={self.globals[key]}" for key in ("log", "log-format") if key in self.globals]
        argv += ["--debug"] if "debug" in self.globals else []
        return [*argv, *self._cgroup_words(), verb, *words]

    def _path(self) -> str:
        path = process.find(self.program)
        if path is None:
            hint = f"install {self.program}, or choose another --backend"
            raise ShimError(f"no {self.program} in {process.PATH}", hint)
        return path

    def _cgroup_words(self) -> list[str]:
        manager = self._cgroup_manager()
        if manager is None:
            return []
        if self.dialect == "crun":
            return [f"--cgroup-manager={manager}"]
        if manager == "disabled":
            raise ShimError(f"{self.name} has no --cgroup-manager=disabled", "choose cgroupfs or systemd, or crun")
        return ["--systemd-cgroup"] if manager == "systemd" else []

    def _cgroup_manager(self) -> str | None:
        """Return one of MANAGERS, or None for the backend's own choice.

        An ordinary user's container stays in the control group that it was started in, which in a job is the task's.
        crun must be told so; runc does it unasked if it has no right to make a group.
        """
        given = "systemd" if "systemd-cgroup" in self.globals else self.globals.get("cgroup-manager")
        if given not in (None, *MANAGERS):
            raise ShimError(f"--cgroup-manager is {', '.join(MANAGERS)}, not {given!r}")
        if given is None and os.geteuid() and self.dialect == "crun":
            return "disabled"
        return given


def environment(given: Sequence[str], container: Container) -> list[str]:
    """Return the container's own variables as --env options for `exec`, except those that `given` sets.

    crun 1.21 leaves the container's out as soon as one --env is given.
    """
    if not given:
        return []
    names = {word.partition("=")[2].partition("=")[0] for word in given}
    entries = container.load().get("config", {}).get("process", {}).get("env", [])
    return [f"--env={entry}" for entry in entries if entry.partition("=")[0] not in names]


def adopt(crun: Backend, container: Container, bundle: Bundle, pid: int, cgroup: str, seccomp: bytes) -> None:
    """Write the files by which crun takes the restored process `pid` for the init of a container that it created.

    crun's verbs (exec, ps, pause, …) then serve restored containers too. They read its `status` file, its copy of
    config.json, and `seccomp`, the filter that exec gives its processes (crun 1.21, src/libcrun/status.c, seccomp.c).
    """
    place = os.path.join(crun.root, container.name)
    os.makedirs(place, mode=0o700)
    files.write_json(os.path.join(place, "config.json"), bundle.config)
    if seccomp:
        files.write_atomically(os.path.join(place, "seccomp.bpf"), seccomp)
    status = {
        "pid": pid,
        "process-start-time": process.start_time(pid),
        "cgroup-path": cgroup,
        "scope": "",
        "intelrdt": "",
        "rootfs": bundle.config["root"]["path"],
        "systemd-cgroup": False,
        "bundle": bundle.path,
        "created": files.timestamp(),
        "owner": process.user_name(os.geteuid()),
        "detached": True,
        "external_descriptors": "[]",
    }
    files.write_json(os.path.join(place, "status"), status)


def limit(crun: Backend, container: Container, bundle: Bundle) -> None:
    """Have crun set config.json's limits on a restored container's control group. Raise ShimError if it can't."""
    resources = bundle.config["linux"].get("resources")
    if not resources:
        return
    path = container.path(RESOURCES)
    files.write_json(path, resources)
    status, _, errors = crun.output("update", "--resources", path, container.name)
    if status:
        raise ShimError(
            f"the limits of {container.name} could not be set, and it would run without them: {errors.strip()}",
            "give this node the control groups of the one before, or change linux.resources in config.json",
        )
