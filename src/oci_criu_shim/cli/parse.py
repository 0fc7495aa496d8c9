"""The command line: runc's and scrun's grammar, from the table in verbs.

Parsed here and not by argparse, which costs as much as the rest of the start-up of `state`.
"""

from __future__ import annotations

import os

from oci_criu_shim.cli import commands
from oci_criu_shim.cli.verbs import GLOBAL, GROUPS, HELP, VERBS
from oci_criu_shim.errors import USAGE, ShimError, line_of
from oci_criu_shim.host import process
from oci_criu_shim.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from oci_criu_shim.cli.verbs import Group, Option, Verb


class Invocation:
    """One parsed command line: `root` and `log` from the global options, the rest the verb's.

    `container` is the first operand, empty for a verb that takes none.
    """

    def __init__(self, verb: str, globals: dict[str, str], values: dict[str, str], operands: list[str]) -> None:
        self.verb = verb
        self.globals = globals
        self.values = values
        self.operands = operands
        self.container = operands[0] if operands else ""
        self.root = os.path.abspath(globals.get("root") or default_root())
        self.log = _log(globals)

    @property
    def optional(self) -> str | None:
        """The second operand; None where it was left out."""
        return self.operands[1] if len(self.operands) > 1 else None

    def value(self, key: str) -> str | None:
        """The value of option `key`, None where it was not given."""
        return self.values.get(key)

    def flag(self, key: str) -> bool:
        """Whether option `key` was given, and not as =false."""
        return key in self.values

    def words(self, *keys: str) -> list[str]:
        """Those of the options `keys` that were given, as another runtime's command line takes them."""
        options = {option.key: option for option in VERBS[self.verb].options}
        words = []
        for key in keys:
            if key not in self.values:
                continue
            if options[key].metavar:
                words += [f"--{key}={value}" for value in self.values[key].split("\0")]
            else:
                words.append(f"--{key}")
        return words

    def all_words(self) -> list[str]:
        """All the verb's options that were given, as another runtime's command line takes them."""
        return self.words(*self.values)


def _log(globals: dict[str, str]) -> Log:
    """What the global options say of it; they are changed to those that every backend knows."""
    form, level = globals.get("log-format", "text"), globals.get("log-level", "error")
    if form not in ("text", "json"):
        raise ShimError(f"--log-format is text or json, not {form!r}", status=USAGE)
    if level not in ("error", "warning", "debug"):
        raise ShimError(f"--log-level is error, warning or debug, not {level!r}", status=USAGE)
    if level == "debug":
        globals["debug"] = "true"
    if "log" in globals:
        globals["log"] = _log_file(globals["log"])
    return Log(globals.get("log"), form, "debug" in globals)


def _log_file(path: str) -> str:
    """The file of crun's and runc's --log; ShimError where it can't be written."""
    if path.startswith(("journald:", "syslog:")):
        raise ShimError(f"--log is a file, not {path!r}", status=USAGE)
    path = path.removeprefix("file:")
    try:
        open(path, "ab").close()
    except OSError as error:
        raise ShimError(f"cannot write the log {path}: {error.strerror}", "name another file by --log") from None
    return path


def default_root() -> str:
    """Where state is kept by default: /run for root, the user's runtime directory otherwise."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() == 0 and not (runtime and process.in_a_user_namespace()):
        return "/run/oci-criu-shim/root"
    return os.path.join(runtime or f"/run/user/{os.geteuid()}", "oci-criu-shim")


def main(argv: Sequence[str]) -> int:
    """Carry out the command line `argv` (without the program's name); the exit status."""
    globals: dict[str, str] = {}
    rest = _options(list(argv), GLOBAL, globals, stop=True)
    if "version" in globals:
        return commands.version()
    if rest[:1] == ["help"]:
        rest = [*rest[1:], "--help"]
    if "help" in globals or not rest or rest == ["--help"]:
        print(usage())
        return 0 if rest or "help" in globals else USAGE
    name, *rest = rest
    group = GROUPS.get(name)
    if group:
        if rest[:1] == ["help"]:
            rest = [*rest[1:], "--help"]
        if not rest or rest[0] in HELP.names:
            print(usage_of_group(name, group))
            return 0 if rest else USAGE
        verb = _verb(group.table(), rest[0], f"{name} ")
        name, rest = f"{name} {rest[0]}", rest[1:]
    else:
        verb = _verb(VERBS, name)
    values: dict[str, str] = {}
    operands = _options(rest, (*verb.options, HELP), values, stop=verb.ends_options)
    if "help" in values:
        print(usage_of(name, verb))
        return 0
    _count_operands(name, verb, operands)
    if "slurm-conf" in globals:
        os.environ["SLURM_CONF"] = globals["slurm-conf"]
    call = Invocation(name, globals, values, operands)
    return _report(call, lambda: _carry_out(call, verb))


def _carry_out(call: Invocation, verb: Verb) -> int:
    """As the user in whose directory it is to be done, where that is not root's, and we are."""
    if os.geteuid() == 0:
        from oci_criu_shim.container import ownership

        if ownership.is_root() and (user := ownership.user_of(call.root)):
            from oci_criu_shim.cli import stepdown

            return stepdown.carry_out(call, user, lambda: _report(call, lambda: verb.call(call)))
    return verb.call(call)


def _report(call: Invocation, work: Callable[[], int]) -> int:
    """The exit status of `work`, with its error told."""
    try:
        return work()
    except ShimError as error:
        call.log.error(error.line())
        return error.status
    except OSError as error:
        call.log.error(line_of(error))
        return 1


def _verb(table: Mapping[str, Verb], name: str, group: str = "") -> Verb:
    if name not in table:
        raise ShimError(f"unknown command {group + name!r}", f"oci-criu-shim {group}--help lists them", USAGE)
    return table[name]


def _count_operands(name: str, verb: Verb, operands: list[str]) -> None:
    if len(operands) < verb.least or (verb.most is not None and len(operands) > verb.most):
        wanted = verb.operands or "no operand"
        raise ShimError(f"{name} takes {wanted}, not {operands}", usage_line(name, verb), USAGE)


def _options(words: list[str], known: Sequence[Option], values: dict[str, str], stop: bool) -> list[str]:
    """Put the options among `words` into `values`; the operands. `stop` at the first operand.

    An option given more than once has its values joined by NUL, which no argument can hold.
    """
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
        if option is None and not word.startswith("--") and (option := table.get(word[:2])):
            given, value = option.metavar, word[2:]  # crun takes -bDIR, and -dt
            if not given:
                words.insert(0, f"-{value}")
        if option is None:
            raise ShimError(f"unknown option {word!r}", "--help lists the options", USAGE)
        if not given and option.metavar:
            if not words:  # podman looks for these words, which are runc's, to find out what a runtime can do
                raise ShimError(f"flag needs an argument: {word} {option.metavar}", status=USAGE)
            value = words.pop(0)
        _note(values, option, value if option.metavar or given else "true")
    return operands


def _note(values: dict[str, str], option: Option, value: str) -> None:
    if not option.metavar and value in ("false", "0"):
        values.pop(option.key, None)
    elif not option.metavar and value not in ("true", "1"):
        raise ShimError(f"{option.names[0]} is true or false, not {value!r}", status=USAGE)
    else:
        repeated = option.key in ("env", "cap", "additional-gids") and option.key in values
        values[option.key] = f"{values[option.key]}\0{value}" if repeated else value


def usage_line(name: str, verb: Verb) -> str:
    """How verb `name` is called."""
    return f"usage: oci-criu-shim [GLOBAL OPTIONS] {name} [OPTIONS] {verb.operands}".rstrip()


def usage_of(name: str, verb: Verb) -> str:
    """The help of one verb."""
    return "\n".join([usage_line(name, verb), "", f"  {verb.help}", "", *_table(verb.options)])


def usage() -> str:
    """The help of the whole command."""
    return "\n".join(
        [
            "usage: oci-criu-shim [GLOBAL OPTIONS] COMMAND [OPTIONS] [ID]",
            "",
            "An OCI runtime that checkpoints and restores Slurm's container jobs.",
            "",
            "commands:",
            *_helps({**VERBS, **GROUPS}),
            "",
            "global options:",
            *_table(GLOBAL),
        ]
    )


def usage_of_group(name: str, group: Group) -> str:
    """The help of a group of verbs."""
    line = f"usage: oci-criu-shim [GLOBAL OPTIONS] {name} COMMAND [OPTIONS] ..."
    return "\n".join([line, "", "commands:", *_helps(group.table())])


def _helps(verbs: Mapping[str, Verb | Group]) -> list[str]:
    width = max(map(len, verbs))
    return [f"  {name:{width}}  {verb.help}" for name, verb in verbs.items()]


def _table(options: Sequence[Option]) -> list[str]:
    left = [" ".join([", ".join(o.names), o.metavar]).rstrip() for o in options]
    width = max(map(len, left), default=0)
    return [f"  {name:{width}}  {option.help}" for name, option in zip(left, options, strict=True)]
