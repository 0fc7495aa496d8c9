"""One call of a verb, as its handler takes it: the global options, the verb's options and its operands."""

from __future__ import annotations

import os

from oci_criu_shim.errors import USAGE, Others, ShimError, line_of
from oci_criu_shim.host import process
from oci_criu_shim.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Given = Mapping[str, Sequence[str]]
    """{key of an option that was given: its values}; a flag has none."""


class Invocation:
    """A parsed command line: `root` and `log` come from the options before the verb, the rest are the verb's.

    `container` is the first operand, which is a container's id for most verbs; empty if there is none.
    """

    def __init__(self, verb: str, globals: dict[str, str], given: Given, operands: Sequence[str]) -> None:
        self.verb = verb
        self.globals = globals
        self.given = given
        self.operands = operands
        self.container = operands[0] if operands else ""
        self.root = os.path.abspath(globals.get("root") or default_root())
        self.log = _log(globals)

    def operand(self, number: int) -> str | None:
        """Return an operand, counted from 0; None if it was left out."""
        return self.operands[number] if number < len(self.operands) else None

    def value(self, key: str) -> str | None:
        """Return the value of option `key`; None if it was not given."""
        return self.given[key][-1] if key in self.given else None

    def flag(self, key: str) -> bool:
        """Return whether option `key` was given, and not as =false."""
        return key in self.given

    def words(self, *keys: str) -> list[str]:
        """Return those of the options `keys` that were given, as another runtime's command line takes them."""
        given = [key for key in keys if key in self.given]
        return [word for key in given for word in [f"--{key}={value}" for value in self.given[key]] or [f"--{key}"]]

    def all_words(self) -> list[str]:
        """Return all of the verb's options that were given, as another runtime's command line takes them."""
        return self.words(*self.given)

    def failed(self, error: ShimError | OSError) -> int:
        """Log the error that ended the call; return its exit status."""
        if isinstance(error, Others):
            error.hint = self.owners_way(error.owner) or error.hint
        self.log.error(line_of(error))
        return error.status if isinstance(error, ShimError) else 1

    def owners_way(self, name: str) -> str:
        """Return the hint that root does this as the user `name`, with the command; empty for other callers."""
        import shlex

        from oci_criu_shim.container import ownership

        before = [f"--{key}" if value == "true" else f"--{key}={value}" for key, value in self.globals.items()]
        words = shlex.join([*before, *self.verb.split(), *self.all_words(), *self.operands])
        return ownership.by(name, words) if ownership.is_root() else ""


def _log(globals: dict[str, str]) -> Log:
    """Return the log that the global options describe; rewrite these to the forms that every backend knows."""
    if globals.get("log-level") == "debug":
        globals["debug"] = "true"
    if "log" in globals:
        globals["log"] = _log_file(globals["log"])
    return Log(globals.get("log"), globals.get("log-format", "text"), "debug" in globals)


def _log_file(path: str) -> str:
    """Return the file that --log names, in runc's form or crun's; raise ShimError if it can't be written."""
    if path.startswith(("journald:", "syslog:")):
        raise ShimError(f"--log is a file, not {path!r}", status=USAGE)
    path = path.removeprefix("file:")
    try:
        open(path, "ab").close()
    except OSError as error:
        raise ShimError(f"cannot write the log {path}: {error.strerror}", "name another file by --log") from None
    return path


def default_root() -> str:
    """Return the default of --root: /run for root, the user's runtime directory for others."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() == 0 and not (runtime and process.in_a_user_namespace()):
        return "/run/oci-criu-shim/root"
    return os.path.join(runtime or f"/run/user/{os.geteuid()}", "oci-criu-shim")
