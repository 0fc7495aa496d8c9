"""The command line: runc's and scrun's grammar, from one table of verbs and options.

Parsed here and not by argparse, which costs as much as the rest of the start-up of `state`.
"""

from __future__ import annotations

import os

from oci_criu_shim import commands
from oci_criu_shim.errors import ShimError
from oci_criu_shim.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

USAGE = 2  # exit status of a command line that can't be understood


class Option:
    """`names` as they are typed, the first long one being its key; `metavar` where it takes a value."""

    def __init__(self, names: str, metavar: str, help: str) -> None:
        self.names = names.split()
        self.key = next(name for name in self.names if name.startswith("--"))[2:]
        self.metavar = metavar
        self.help = help


class Verb:
    """`operands` as usage shows them: one container id, then optional ones in brackets."""

    def __init__(
        self, call: Callable[[Invocation], int], operands: str, help: str, options: Sequence[Option] = ()
    ) -> None:
        self.call = call
        self.operands = operands
        self.help = help
        self.options = options


class Invocation:
    """One parsed command line: `root` and `log` from the global options, the rest the verb's."""

    def __init__(self, values: dict[str, str], operands: list[str]) -> None:
        self._values = values
        self.container = operands[0]
        self.optional = operands[1] if len(operands) > 1 else None
        self.root = os.path.abspath(values.get("root") or default_root())
        form = values.get("log-format", "text")
        if form not in ("text", "json"):
            raise ShimError(f"--log-format is text or json, not {form!r}", status=USAGE)
        self.log = Log(values.get("log"), form, self.flag("debug"))

    def value(self, key: str) -> str | None:
        """The value of option `key`, None where it was not given."""
        return self._values.get(key)

    def text(self, key: str) -> str:
        """The value of an option that is known to be given."""
        return self._values[key]

    def flag(self, key: str) -> bool:
        """Whether option `key` was given, and not as =false."""
        return self._values.get(key, "false") not in ("false", "0")


GLOBAL = (
    Option("--root", "DIR", "where the containers' state is kept"),
    Option("--log -f", "FILE", "write errors to FILE as well"),
    Option("--log-format", "FORMAT", "text or json"),
    Option("--debug -V", "", "say what is done"),
    Option("--rootless", "BOOL", "accepted for runc's sake; the user id tells"),
    Option("--systemd-cgroup", "", "accepted for runc's sake"),
    Option("--cgroup-manager", "NAME", "accepted for crun's sake"),
    Option("--help -h", "", "show this help"),
    Option("--version -v", "", "show the version"),
)
BUNDLE = Option("--bundle -b", "DIR", "the bundle; the current directory by default")
IMAGES = Option("--image-path", "DIR", "the checkpoint's directory; ./checkpoint by default")
VERBS = {
    "run": Verb(
        commands.run,
        "ID",
        "create and start a container, and wait for its end",
        (
            BUNDLE,
            Option("--no-pivot", "", "use chroot instead of pivot_root"),
            Option("--no-new-keyring", "", "keep the session keyring"),
            Option("--preserve-fds", "N", "pass N more descriptors on"),
        ),
    ),
    "state": Verb(commands.state, "ID", "print a container's state as JSON"),
    "kill": Verb(
        commands.kill,
        "ID [SIGNAL]",
        "send a signal to a container's init (TERM by default)",
        (Option("--all -a", "", "accepted: the end of init is the end of its pid namespace"),),
    ),
    "delete": Verb(
        commands.delete,
        "ID",
        "remove what is left of a stopped container",
        (Option("--force -f", "", "end it first if it runs"),),
    ),
    "checkpoint": Verb(
        commands.checkpoint,
        "ID",
        "checkpoint a running container",
        (IMAGES, Option("--leave-running -R", "", "let it run on afterwards")),
    ),
    "restore": Verb(
        commands.restore, "ID", "restore a container, and wait for its end", (BUNDLE, IMAGES)
    ),
}


def default_root() -> str:
    """Where state is kept by default: /run for root, the user's runtime directory otherwise."""
    if os.geteuid() == 0:
        return "/run/oci-criu-shim/root"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return os.path.join(runtime, "oci-criu-shim")


def main(argv: Sequence[str]) -> int:
    """Carry out the command line `argv` (without the program's name); the exit status."""
    values: dict[str, str] = {}
    rest = _options(list(argv), GLOBAL, values, stop=True)
    if "version" in values:
        return commands.version()
    if "help" in values or not rest or rest[0] == "help":
        print(usage())
        return 0 if rest or "help" in values else USAGE
    name, *rest = rest
    verb = VERBS.get(name)
    if verb is None:
        raise ShimError(f"unknown command {name!r}", "oci-criu-shim --help lists them", USAGE)
    operands = _options(rest, (*verb.options, GLOBAL[-2]), values, stop=False)
    if "help" in values:
        print(usage_of(name, verb))
        return 0
    _count_operands(name, verb, operands)
    call = Invocation(values, operands)
    try:
        return verb.call(call)
    except ShimError as error:
        call.log.error(error.line())
        return error.status
    except OSError as error:
        call.log.error(str(error))
        return 1


def _count_operands(name: str, verb: Verb, operands: list[str]) -> None:
    most = len(verb.operands.split())
    least = most - verb.operands.count("[")
    if not least <= len(operands) <= most:
        raise ShimError(f"{name} takes {verb.operands}, not {operands}", usage_line(name, verb), USAGE)


def _options(words: list[str], known: Sequence[Option], values: dict[str, str], stop: bool) -> list[str]:
    """Put the options among `words` into `values`; the operands. `stop` at the first operand."""
    table = {name: option for option in known for name in option.names}
    operands: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            return operands + words
        if not word.startswith("-") or word == "-":
            operands.append(word)
            if stop:
                return operands + words
            continue
        name, given, value = word.partition("=")
        name = name if name.startswith("--") or len(name) == 2 else "-" + name  # runc takes -root too
        option = table.get(name)
        if option is None:
            raise ShimError(f"unknown option {word!r}", "--help lists the options", USAGE)
        if not given and option.metavar:
            if not words:
                raise ShimError(f"option {word} needs a value: {option.metavar}", status=USAGE)
            value = words.pop(0)
        values[option.key] = value if option.metavar or given else "true"
    return operands


def usage_line(name: str, verb: Verb) -> str:
    """How verb `name` is called."""
    return f"usage: oci-criu-shim [GLOBAL OPTIONS] {name} [OPTIONS] {verb.operands}"


def usage_of(name: str, verb: Verb) -> str:
    """The help of one verb."""
    return "\n".join([usage_line(name, verb), "", f"  {verb.help}", "", *_table(verb.options)])


def usage() -> str:
    """The help of the whole command."""
    width = max(map(len, VERBS))
    verbs = [f"  {name:{width}}  {verb.help}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: oci-criu-shim [GLOBAL OPTIONS] COMMAND [OPTIONS] ID",
            "",
            "An OCI runtime that checkpoints and restores Slurm's container jobs.",
            "",
            "commands:",
            *verbs,
            "",
            "global options:",
            *_table(GLOBAL),
        ]
    )


def _table(options: Sequence[Option]) -> list[str]:
    left = [" ".join([", ".join(o.names), o.metavar]).rstrip() for o in options]
    width = max(map(len, left), default=0)
    return [f"  {name:{width}}  {option.help}" for name, option in zip(left, options, strict=True)]
