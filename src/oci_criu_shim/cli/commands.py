"""Handle the verbs: each handler takes the parsed command line and makes one call.

The first paragraph of a handler's docstring is its verb's help.
"""

from __future__ import annotations

import os
import sys

from oci_criu_shim import files
from oci_criu_shim.container import backends, registry
from oci_criu_shim.container.record import Container
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.cli.invocation import Invocation
    from oci_criu_shim.container.backends import Backend
    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.container.criu_config import Settings
    from oci_criu_shim.container.plan import Plan
    from oci_criu_shim.container.record import Record

# What does for a job what a verb does for a container.
OF_JOBS = {
    "checkpoint": "`oci-criu-shim job checkpoint {}`",
    "exec": "`oci-criu-shim job exec {}`",
    "ps": "`oci-criu-shim job exec {} ps`",
    "state": "`oci-criu-shim job status {}`",
    "kill": "`scancel {}`",
    "delete": "`scancel {}`",
}
DEMAND = "demand"  # the reason of a checkpoint that the verb takes
CREATION = ("config", "console-socket", "preserve-fds", "no-pivot", "no-new-keyring")


def create(call: Invocation) -> int:
    """Create a container, without starting its program."""
    from oci_criu_shim.supervisor import lifecycle

    return lifecycle.create(_plan(call))


def start(call: Invocation) -> int:
    """Start the program of a created container."""
    from oci_criu_shim.container import acts

    container = Container(call.root, call.container)
    return acts.start(container, _backend(call, container))


def run(call: Invocation) -> int:
    """Create and start a container, and wait for its end."""
    from oci_criu_shim.supervisor import lifecycle

    plan = _plan(call)
    return lifecycle.run_detached(plan) if call.flag("detach") else lifecycle.run(plan, call.flag("keep"))


def _plan(call: Invocation) -> Plan:
    from oci_criu_shim.container.plan import Plan

    return Plan(
        Container(call.root, call.container),
        call.value("bundle") or ".",
        call.globals,
        call.words(*CREATION),
        call.value("pid-file"),
        call.log,
        call.value("config"),
    )


def _backend(call: Invocation, container: Container) -> Backend:
    if container.name[0] in "123456789" and not registry.exists(container):
        _refuse_a_job(call, container.name)
    return registry.backend_of(container, call.globals, call.log)


def _refuse_a_job(call: Invocation, word: str) -> None:
    """Raise ShimError with the command for a job, if `word` is a job's name instead of a container's."""
    from oci_criu_shim.cli import jobs

    if call.verb in OF_JOBS and (word.isdecimal() or jobs.is_name(word)):
        said = f"container {word!r} does not exist"
        raise ShimError(said, f"if it is a job of Slurm's: {OF_JOBS[call.verb].format(word)}")


def state(call: Invocation) -> int:
    """Print a container's state as JSON."""
    container = Container(call.root, call.container)
    backend = _backend(call, container)
    if registry.is_the_backends(container, backend):
        backend.become("state", container.name)
    _print_json(registry.state(container, backend))
    return 0


def _print_json(document: object) -> None:
    import json

    print(json.dumps(document, indent=2))


def kill(call: Invocation) -> int:
    """Send a signal to a container's init; TERM by default."""
    from oci_criu_shim.container import acts
    from oci_criu_shim.host import signames

    name = call.operand(1)
    number, status = signames.parse("TERM" if name is None else name), 0
    for container in _chosen(call):
        backend = _backend(call, container)
        if acts.signal_itself(container, backend, number, call.flag("all")):
            continue
        words = (*call.words("all"), container.name, str(number))
        if not call.flag("regex"):
            backend.become("kill", *words)
        status |= backend.call("kill", *words)
    return status


def delete(call: Invocation) -> int:
    """Remove a stopped container."""
    from oci_criu_shim.container import acts

    force, status = call.flag("force"), 0
    for container in _chosen(call):
        if not force or registry.exists(container):
            status |= acts.delete(container, _backend(call, container), force)
    return status


def _chosen(call: Invocation) -> list[Container]:
    """Return the container that is named or, with crun's --regex, all whose ids match."""
    if not call.flag("regex"):
        return [Container(call.root, call.container)]
    import re

    try:
        pattern = re.compile(call.container)
    except re.error as error:
        raise ShimError(f"{call.container!r} is no regular expression: {error}") from None
    return [Container(call.root, name) for name in registry.names(call.root) if pattern.search(name)]


def listing(call: Invocation) -> int:
    """List the containers."""
    states = registry.states(call.root, call.globals, call.log)
    if call.flag("quiet"):
        print("".join(f"{state['id']}\n" for state in states), end="")
    elif call.value("format") == "json":
        _print_json(states)
    else:
        keys = ["id", "pid", "status", "bundle", "created", "owner"]
        rows = [[key.upper() for key in keys]]
        rows += [[str(state.get(key, "")) for key in keys] for state in states]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print(" ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def ps(call: Invocation) -> int:
    """List a container's processes.

    Backends look into the container's control group, and a user's container has none of its own (crun 1.21: "the
    container is not using cgroups").
    """
    from oci_criu_shim.host import pidns, process

    container = Container(call.root, call.container)
    backend = _backend(call, container)
    if os.geteuid() == 0 or backend.makes_groups or call.operands[1:]:
        return pass_on(call)
    pid = registry.init_of(container, backend)
    if not pidns.is_led_by(pid):
        return pass_on(call)
    pids = pidns.members(pid)
    if call.value("format") == "json":
        _print_json(pids)
    else:
        print("PID      COMMAND", *(f"{pid:<7}  {process.command(pid)}" for pid in pids), sep="\n")
    return 0


def pass_on(call: Invocation) -> int:
    """Hand the verb to the backend, which serves it for created and restored containers alike."""
    container = Container(call.root, call.container)
    backend = _backend(call, container)
    if not registry.is_the_backends(container, backend):
        raise registry.not_running(container)
    words = call.all_words()
    if call.verb == "exec":
        words += backends.environment(call.words("env"), container)
    backend.require(call.verb, words)
    backend.become(call.verb, *words, *call.operands)


def checkpoint(call: Invocation) -> int:
    """Checkpoint a running container into a directory."""
    from contextlib import nullcontext

    from oci_criu_shim import config
    from oci_criu_shim.checkpoints.directory import Directory
    from oci_criu_shim.cli import criu_options
    from oci_criu_shim.container import acts, bundle, checkpoint_hook, criu_config
    from oci_criu_shim.dump import client
    from oci_criu_shim.dump import dump as checkpointing
    from oci_criu_shim.slurm import tasks
    from oci_criu_shim.slurm.rundir import RunDirectory

    container = Container(call.root, call.container)
    backend = _backend(call, container)
    pid = registry.init_of(container, backend)
    record = _require_record(container)
    found = bundle.Bundle(record["bundle"], record["config"])
    configured = _configured(call, found, backend.dialect)
    options = criu_options.dump(call, found, backend.dialect, configured)
    task = tasks.of(found.environment())
    helper = RunDirectory(container.root).helper_socket(task) if task else None
    elsewhere = "page_server" in options and "lazy_pages" not in options
    places = call.value("image-path") or "checkpoint", call.value("work-path")
    directory = Directory(*places, elsewhere=elsewhere, parent=call.value("parent-path") or "")
    log = criu_config.log_file(configured, directory.work)
    serves = criu_options.serves(call)
    directory.prepare()
    closes = task is not None and config.load().closes(task.tcp)
    hook, is_whole = checkpoint_hook.of(container, pid, backend, call.log), not call.flag("pre-dump")
    with hook.around(DEMAND, ends=not options["leave_running"]) if is_whole else nullcontext():
        dump = checkpointing.Dump(container, pid, options, closes)
        for line in dump.changes:
            call.log.event(f"{container.name} comes back changed: {line}")
        with directory.log_at(log, call.log):
            if call.flag("pre-dump"):
                dump.pre_dump(directory, client.connect(helper))
                call.log.debug(f"pre-dumped {container.name} to {directory.path}")
                return 0
            taken = dump.take(directory, DEMAND, client.connect(helper), serves=serves)
    call.log.debug(f"checkpointed {container.name} to {taken.describe()}")
    if not options["leave_running"]:
        acts.forget(container, backend, pid)
    return 0


def _require_record(container: Container) -> Record:
    """Return a container's record; ShimError if it has none."""
    record = container.load()
    if not record:  # it runs by the backend's `run` in the foreground, which leaves no record
        raise ShimError(
            f"container {container.name!r} was not started to be checkpointed",
            "inside Slurm, submit with --checkpoint; outside of it, run and checkpoint as root",
        )
    return record


def restore(call: Invocation) -> int:
    """Restore a container, and wait for its end.

    The directory is one that `checkpoint`, ours or that of runc or crun, has written, or a job's.
    """
    from oci_criu_shim.checkpoints.directory import Directory
    from oci_criu_shim.checkpoints.store import newest
    from oci_criu_shim.cli import criu_options
    from oci_criu_shim.container import bundle, criu_config
    from oci_criu_shim.restore.plan import Asked
    from oci_criu_shim.supervisor import lifecycle

    console = call.value("console-socket")
    if console and not call.flag("detach"):
        raise ShimError("--console-socket is for --detach", "leave it out: the terminal is copied to this one")
    directory = Directory(call.value("image-path") or "checkpoint")
    plan = _plan(call)
    configured = _configured(call, plan.bundle, plan.backend.dialect)
    work = call.value("work-path")
    log = criu_config.log_file(configured, work or directory.path)
    asked = Asked(criu_options.restore(call, configured), work, log)
    bundle.prepare_rootfs(plan.bundle)
    found = newest(directory.path) or directory.read()
    if found is None:
        from oci_criu_shim.restore import foreign

        found = foreign.checkpoint(directory.path, plan.bundle)
    if call.flag("detach"):
        return lifecycle.restore_detached(plan, found, asked, console)
    return lifecycle.restore(plan, found, asked)


def _configured(call: Invocation, bundle: Bundle, dialect: str) -> Settings:
    """Return what CRIU's configuration file asks for; a user is told that it is for root's containers only."""
    from oci_criu_shim.container import criu_config

    if os.geteuid() == 0:
        return criu_config.read(bundle, dialect)
    if line := criu_config.ignored(bundle):
        call.log.event(line)
    return {}


def spec(call: Invocation) -> int:
    """Write a config.json to start from."""
    backend = registry.default_backend(call.root, call.globals, call.log)
    if call.flag("keep-id"):
        return _spec_with_own_ids(call, backend)
    backend.require("spec", call.all_words())
    backend.become("spec", *call.all_words())


def _spec_with_own_ids(call: Invocation, backend: Backend) -> int:
    import json

    from oci_criu_shim.container import keep_id

    if os.geteuid() == 0:
        raise ShimError("root's containers have root's ids without --keep-id", "leave it out, or run this as a user")
    words = ["--rootless", *call.words("bundle", "file")]
    backend.require("spec", words)
    status, _, errors = backend.output("spec", *words)
    if status:
        raise ShimError(f"{backend.name} spec: {errors.strip()}")
    path = call.value("file") or os.path.join(call.value("bundle") or "", "config.json")
    config = files.read_json(path)
    keep_id.change(config)
    files.write_atomically(path, json.dumps(config, indent=4).encode() + b"\n", 0o644)
    return 0


def features(call: Invocation) -> int:
    """Print as JSON what this runtime can do.

    These are the backend's features, with ours as annotations.
    """
    from oci_criu_shim import __version__
    from oci_criu_shim.container import criu_config

    backend = registry.default_backend(call.root, call.globals, call.log)
    status, text, errors = backend.output("features")
    if status:
        raise ShimError(f"{backend.name} features: {errors.strip()}", "the backend must know the verb `features`")
    document = files.parse_json(text)
    document.setdefault("annotations", {}).update(
        {
            "oci-criu-shim.version": __version__,
            "oci-criu-shim.backend": backend.name,
            "oci-criu-shim.checkpoint.enabled": "true",
        }
    )
    unsafe = document.setdefault("potentiallyUnsafeConfigAnnotations", [])  # of config.json
    unsafe += [name for name in ("oci-criu-shim.", criu_config.ANNOTATION) if name not in unsafe]
    _print_json(document)
    return 0


def doctor(call: Invocation) -> int:
    """Check this node and its Slurm, and say how to mend what is wrong."""
    from oci_criu_shim.cli import doctor as examination

    return examination.main(call.flag("json"), call.flag("quiet"))


def version() -> int:
    """Print the version; callers look for its last line to find out whether a runtime can make checkpoints."""
    from oci_criu_shim import __version__

    sys.stdout.write(f"oci-criu-shim version {__version__}\nspec: 1.2.0\n+CRIU\n")
    return 0
