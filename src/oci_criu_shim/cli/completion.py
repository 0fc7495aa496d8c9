"""Complete the command line in bash: the script that asks for what may stand at the cursor, and the answers."""

from __future__ import annotations

from oci_criu_shim.cli.option import Group, Verb, choices

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from oci_criu_shim.cli.option import Option

# Bash takes `--option=value` for three words, of which $2 is the last. The words of an answer stand one a line.
SCRIPT = r"""
_oci_criu_shim() {
    local answer word IFS=$'\n'
    answer=$("$1" completion bash "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    # shellcheck disable=SC2086 # ID may be followed by a line with --root
    [[ $answer == ID* ]] && answer=$("$1" ${answer#ID} list --quiet 2>/dev/null)
    case $answer in
    FILE) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$2") ;;
    DIR) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$2") ;;
    *)
        COMPREPLY=()
        # compgen -W would expand the words: root may list a directory whose owner decides what stands in them.
        while read -r word; do
            [[ $word == "$2"* && $word =~ ^[[:alnum:]_.+@-]+$ ]] && COMPREPLY+=("$word")
        done <<<"$answer"
        ;;
    esac
}
complete -F _oci_criu_shim oci-criu-shim
""".strip()
# What completes a value or operand of these names, or the last of several kinds. Nothing does if the name is not here,
# nor in lower case.
KINDS = {"FILE": "FILE", "DIR": "DIR", "PATH": "DIR", "ID": "ID"}


def answer(words: Sequence[str], program: Group, options: Sequence[Option]) -> str:
    """Return the script; if there are `words`, what may stand in the place of the last of them, one a line.

    FILE, DIR and ID stand for the names of these; ID may be followed by the --root that was given. `options` are those
    that may stand before the verb.
    """
    if not words:
        return SCRIPT
    *typed, last = _joined(words)
    line = Typed(program, options)
    for word in typed:
        line.take(word)
    return "\n".join(line.candidates(last))


def _joined(words: Sequence[str]) -> list[str]:
    """Return `words` with those put together again that bash splits at an equals sign."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].startswith("--") and (word == "=" or joined[-1].endswith("=")):
            joined[-1] += word
        else:
            joined.append(word)
    return joined


class Typed:
    """A command line as far as it is typed; `waiting` is an option that lacks its value."""

    def __init__(self, program: Group, options: Sequence[Option]) -> None:
        self.entry: Verb | Group | None = program
        self.options = options
        self.waiting: Option | None = None
        self.operands = 0
        self.root: list[str] = []

    def take(self, word: str) -> None:
        """Note the next word."""
        if self.waiting:
            self._note(self.waiting, word)
        elif word.startswith("-"):
            name, equals, value = word.partition("=")
            option = self._named(name)
            if option and equals:
                self._note(option, value)
            elif option and option.metavar:
                self.waiting = option
        elif isinstance(self.entry, Group):
            self.entry = self.entry.table().get(word)
            self.options = () if self.entry is None or isinstance(self.entry, Group) else self.entry.options
        else:
            self.operands += 1

    def _named(self, name: str) -> Option | None:
        return next((option for option in self.options if name in option.names), None)

    def _note(self, option: Option, value: str) -> None:
        self.waiting = None
        if option.key == "root":
            self.root = [f"--root={value}"]

    def candidates(self, last: str) -> list[str]:
        """Return what may stand in the place of `last`, the word at the cursor."""
        name, equals, _ = last.partition("=")
        if option := self.waiting or (self._named(name) if equals else None):
            return self._values(option.metavar)
        if isinstance(self.entry, Verb) and self.entry.ends_options and self.operands:
            return []  # a command line of its own
        if last.startswith("-"):
            return [f"--{option.key}" for option in self.options]
        return [*self.entry.table()] if isinstance(self.entry, Group) else self._values(self._operand())

    def _operand(self) -> str:
        """Return the name of the next operand; empty if there is no more."""
        names = self.entry.operands.split() if isinstance(self.entry, Verb) else []
        more = names[self.operands :] or (names[-1:] if "..." in "".join(names) else [])
        return "".join(more[:1]).strip("[].")

    def _values(self, name: str) -> list[str]:
        if name == "JOBID":
            return _jobs()
        kind = KINDS.get(name.rpartition("|")[2])
        return [kind, *(self.root if kind == "ID" else [])] if kind else choices(name)


def _jobs() -> list[str]:
    """Return the numbers of the caller's jobs that have a history."""
    from oci_criu_shim.cli import directories
    from oci_criu_shim.task import history

    return [str(job) for directory in directories.all_of(None) for job in history.jobs(directory)]
