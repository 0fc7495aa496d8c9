"""What the table of the command line is made of: options, verbs, and groups of verbs."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from oci_criu_shim.cli.invocation import Invocation


class Option:
    """An option: `names` as they are typed; the first long one is its key.

    `metavar` is for an option that takes a value. It names the value (FILE) or, in lower case, lists all there are
    (`text|json`). An option that `repeats` takes one value each time.
    """

    def __init__(self, names: str, metavar: str, help: str, repeats: bool = False) -> None:
        self.names = names.split()
        self.metavar = metavar
        self.help = help
        self.repeats = repeats

    @property
    def key(self) -> str:
        """The name that handlers know it by."""
        return next(name for name in self.names if name.startswith("--"))[2:]

    @property
    def choices(self) -> list[str]:
        """All the values there are; none if any is taken."""
        return choices(self.metavar)


DIRECTORY = Option("--checkpoint-dir", "DIR", "the directory of the checkpoints; by default, where the job keeps them")


def choices(word: str) -> list[str]:
    """Return the words that a metavar or operand in lower case lists, as `text|json`; none if it names a value."""
    return word.split("|") if word.islower() else []


class Verb:
    """A verb: `call` carries it out, and its docstring is the verb's help unless another text is given.

    `operands` are as usage shows them: in brackets if they may be left out, with dots if more may follow, either of
    the same kind (`ID...`, `[ID]...`) or a command line of their own (`[COMMAND...]`).
    """

    def __init__(
        self, call: Callable[[Invocation], int], operands: str, options: Sequence[Option] = (), help: str = ""
    ) -> None:
        self.call = call
        self.operands = operands
        self.options = options
        self._help = help

    @property
    def help(self) -> str:
        """One sentence that begins in lower case and has no full stop."""
        text = self._help or " ".join((self.call.__doc__ or "").partition("\n\n")[0].split()).rstrip(".")
        return text[:1].lower() + text[1:]

    @property
    def least(self) -> int:
        """How many operands it must have."""
        return sum(not word.startswith("[") for word in self.operands.split())

    @property
    def most(self) -> int | None:
        """How many operands it may have; None if there is no limit."""
        return None if "..." in self.operands else len(self.operands.split())

    @property
    def ends_options(self) -> bool:
        """Whether a command line of its own follows the first operand."""
        return "...]" in self.operands


class Group:
    """A word that stands before verbs: `table` returns these, and is called only if they are needed."""

    def __init__(self, table: Callable[[], Mapping[str, Verb | Group]], help: str) -> None:
        self.table = table
        self.help = help
