"""The pages that --help prints, from the table in verbs."""

from __future__ import annotations

from oci_criu_shim.cli.option import Group
from oci_criu_shim.cli.verbs import GLOBAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oci_criu_shim.cli.option import Option, Verb

COMMAND = "usage: oci-criu-shim [GLOBAL OPTIONS]"


def line(name: str, verb: Verb) -> str:
    """Return how verb `name` is called."""
    return f"{COMMAND} {name} [OPTIONS] {verb.operands}".rstrip()


def page(name: str, entry: Verb | Group) -> str:
    """Return the help of verb or group `name`; that of the whole command if the name is empty."""
    if not isinstance(entry, Group):
        return "\n".join([line(name, entry), "", f"  {entry.help}", "", *_options(entry.options)])
    head = [f"{COMMAND} {name} COMMAND [OPTIONS] ...".replace("  ", " "), ""]
    if not name:
        head += [f"{entry.help}.", ""]
    page = [*head, "commands:", *_commands(entry.table())]
    return "\n".join(page if name else [*page, "", "global options:", *_options(GLOBAL)])


def _commands(table: Mapping[str, Verb | Group]) -> list[str]:
    return _columns([(name, entry.help) for name, entry in table.items()])


def _options(options: Sequence[Option]) -> list[str]:
    return _columns([(" ".join([", ".join(o.names), o.metavar]).rstrip(), o.help) for o in options])


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0)
    return [f"  {name:{width}}  {text}" for name, text in rows]
