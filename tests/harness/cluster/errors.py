"""The one exception a user of the cluster sees."""

from __future__ import annotations


class ClusterError(Exception):
    """Something the user can act on: what failed, then a hint what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message
