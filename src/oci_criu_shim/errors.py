"""The one exception that carries a message for the user, and its kinds."""

from __future__ import annotations

USAGE = 2  # exit status if the command line can't be understood


class ShimError(Exception):
    """A failure that the user or the site can mend: printed as one line, never as a traceback.

    `hint` says how to mend it; `status` is the process's exit status (1 to 255).
    """

    def __init__(self, message: str, hint: str = "", status: int = 1) -> None:
        super().__init__(message)
        self.hint = hint
        self.status = status

    def line(self) -> str:
        """Return the message and its hint as they are printed, on one line."""
        text = f"{self} (hint: {self.hint})" if self.hint else str(self)
        return " ".join(text.split("\n"))


class Damaged(ShimError):
    """A checkpoint is not whole; the previous one may be."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "`oci-criu-shim ckpt list` shows older ones")


class Others(ShimError):
    """What is asked for is another user's, who is named `owner`."""

    def __init__(self, message: str, hint: str, owner: str) -> None:
        super().__init__(message, hint)
        self.owner = owner


def cause_of(error: Exception) -> str:
    """Return an error's cause in words, for a line that names its file itself."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def line_of(error: Exception) -> str:
    """Return an error as it is printed, on one line."""
    if isinstance(error, ShimError):
        return error.line()
    file = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return file + cause_of(error)


class Misfit(ShimError):
    """A checkpoint doesn't fit this node; it may be right, and another node may be able to run it.

    `home` is a node that surely can, if one is known.
    """

    def __init__(self, message: str, hint: str = "", home: str = "") -> None:
        super().__init__(message, hint)
        self.home = home


class Killed(ShimError):
    """A process at work in a container, such as CRIU, was killed; the container may have ended by that."""


class Stopped(Killed):
    """CRIU was ended, since it did not get on."""


class NotRestored(ShimError):
    """CRIU could not restore a checkpoint; whether by fault of the checkpoint or of the node can't be told yet."""
