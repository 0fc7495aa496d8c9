"""The one exception that carries a message for the user."""

from __future__ import annotations

USAGE = 2  # exit status of a command line that can't be understood


class ShimError(Exception):
    """Something the user or the site can mend: printed as one line, never as a traceback.

    `hint` says what to do about it; `status` is the process's exit status (1 to 255).
    """

    def __init__(self, message: str, hint: str = "", status: int = 1) -> None:
        super().__init__(message)
        self.hint = hint
        self.status = status

    def line(self) -> str:
        """The message and its hint as they are printed, on one line."""
        text = f"{self} (hint: {self.hint})" if self.hint else str(self)
        return " ".join(text.split("\n"))


class Damaged(ShimError):
    """A checkpoint is not whole; the one before it may be."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "`oci-criu-shim ckpt list` shows older ones, `ckpt rm` removes this one")


def line_of(error: ShimError | OSError) -> str:
    """What is printed of it, on one line."""
    if isinstance(error, ShimError):
        return error.line()
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)


class Misfit(ShimError):
    """The checkpoint may be right, but this node can't run it; another one may."""


class Killed(ShimError):
    """Who was at work in a container was killed, in the middle of it: the container may have ended by that."""


class NotRestored(ShimError):
    """CRIU could not restore it: the checkpoint's fault or the node's, that can't be told."""
