"""Understand the command line, in runc's and scrun's grammar, and call the verb's handler.

argparse is not used: it takes as long as the rest of the start-up of `state`.
"""

from __future__ import annotations

import os

from oci_criu_shim.cli import commands
from oci_criu_shim.cli.invocation import Invocation
from oci_criu_shim.cli.option import Group, choices
from oci_criu_shim.cli.verbs import GLOBAL, HELP, PROGRAM
from oci_criu_shim.errors import USAGE, ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from oci_criu_shim.cli.option import Option, Verb
    from oci_criu_shim.container.ownership import User


def main(argv: Sequence[str]) -> int:
    """Carry out the command line `argv` (without the program's name); return the exit status.

    Raise ShimError with status USAGE if it can't be understood. Nothing stands between here and the verb's handler: a
    restore's traceback is long enough.
    """
    parsed = _parse(argv)
    if isinstance(parsed, int):
        return parsed
    verb, call = parsed
    try:
        if user := _other_user(call.root):
            from oci_criu_shim.cli import stepdown

            return stepdown.carry_out(call, user, verb.call)
        return verb.call(call)
    except (ShimError, OSError) as error:
        return call.failed(error)


def _parse(argv: Sequence[str]) -> tuple[Verb, Invocation] | int:
    """Return the verb that `argv` calls and how; the exit status if all it asked for was help, which is printed."""
    before: dict[str, list[str]] = {}
    words = options(list(argv), GLOBAL, before, stop=True)
    if "version" in before:
        return commands.version()
    name, entry, words = _find(["--help"] if "help" in before else words)
    if isinstance(entry, Group):
        return _help(name, entry, 0 if words else USAGE)
    given: dict[str, list[str]] = {}
    operands = options(words, (*entry.options, HELP), given, stop=entry.ends_options)
    if "help" in given:
        return _help(name, entry, 0)
    _check_operands(name, entry, operands)
    globals = {key: values[-1] if values else "true" for key, values in before.items()}
    if "slurm-conf" in globals:
        os.environ["SLURM_CONF"] = globals["slurm-conf"]
    return entry, Invocation(name, globals, given, operands)


def _find(words: list[str]) -> tuple[str, Verb | Group, list[str]]:
    """Return the verb that `words` call, or the group whose help they ask for: name, entry, and the words left."""
    name = ""
    entry: Verb | Group = PROGRAM
    while isinstance(entry, Group):
        if words[:1] == ["help"]:
            words = [*words[1:], "--help"]
        if not words or words[0] in HELP.names:
            break
        table = entry.table()
        name = f"{name} {words[0]}".lstrip()
        if words[0] not in table:
            hint = _where(words) or f"`oci-criu-shim {name.removesuffix(words[0])}--help` lists them"
            raise ShimError(f"unknown command {name!r}", hint, USAGE)
        entry, words = table[words[0]], words[1:]
    return name, entry, words


def _where(words: list[str]) -> str:
    """Return the hint that a group has the unknown command that `words` begin with; empty if none has it."""
    import shlex

    groups = [name for name, entry in PROGRAM.table().items() if isinstance(entry, Group) and words[0] in entry.table()]
    return " or ".join(f"`oci-criu-shim {name} {shlex.join(words)}`" for name in groups)


def _help(name: str, entry: Verb | Group, status: int) -> int:
    from oci_criu_shim.cli import usage

    print(usage.page(name, entry))
    return status


def _check_operands(name: str, verb: Verb, operands: list[str]) -> None:
    too_many = verb.most is not None and len(operands) > verb.most
    if too_many or len(operands) < verb.least:
        import shlex

        from oci_criu_shim.cli import usage

        wanted = f"{'takes' if too_many else 'needs'} {verb.operands or 'no operand'}"
        found = f", not {shlex.join(operands)}" if operands else ""
        raise ShimError(f"{name} {wanted}{found}", usage.line(name, verb), USAGE)
    for wanted, operand in zip(verb.operands.split(), operands, strict=False):
        _check_choice(f"{name} takes", choices(wanted), operand)


def _check_choice(what: str, known: list[str], value: str) -> None:
    if known and value not in known:
        either = " or ".join(filter(None, (", ".join(known[:-1]), known[-1])))
        raise ShimError(f"{what} {either}, not {value!r}", status=USAGE)


def _other_user(root: str) -> User | None:
    """Return the user who owns the directory `root`, if we are root and the user is not."""
    if os.geteuid():
        return None
    from oci_criu_shim.container import ownership

    return ownership.user_of(root) if ownership.is_root() else None


def options(words: list[str], known: Sequence[Option], given: dict[str, list[str]], stop: bool) -> list[str]:
    """Take the options out of `words` and put their values into `given`; return the operands.

    With `stop`, all that follows the first operand is taken for operands. A flag has no value.
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
        name, equals, value = word.partition("=")
        name = name if name.startswith("--") or len(name) == 2 else "-" + name  # runc takes -root too
        option = table.get(name)
        if option is None and not word.startswith("--") and (option := table.get(word[:2])):
            equals, value = option.metavar, word[2:]  # crun takes -bDIR, and -dt
            if not equals:
                words.insert(0, f"-{value}")
        if option is None:
            raise ShimError(f"unknown option {word!r}", "--help lists the options", USAGE)
        if not equals and option.metavar:
            if not words:  # podman looks for these words, which are runc's, to find out what a runtime can do
                raise ShimError(f"flag needs an argument: {word} {option.metavar}", status=USAGE)
            value = words.pop(0)
        _note(given, option, value if option.metavar or equals else "true")
    return operands


def _note(given: dict[str, list[str]], option: Option, value: str) -> None:
    if option.metavar:
        _check_choice(f"{option.names[0]} is", option.choices, value)
        given[option.key] = [*(given.get(option.key, []) if option.repeats else []), value]
    elif value in ("false", "0"):
        given.pop(option.key, None)
    elif value in ("true", "1"):
        given[option.key] = []
    else:
        raise ShimError(f"{option.names[0]} is true or false, not {value!r}", status=USAGE)
