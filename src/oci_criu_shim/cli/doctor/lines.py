"""Read Slurm's configuration files, line by line."""

from __future__ import annotations

import glob
import os
import re
import shlex

from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DEPTH = 10  # of files that include each other
PAIR = re.compile(r'(\w+)\s*=\s*("[^"]*"|\S+)')


class Line:
    """The words of a line, and where it is."""

    def __init__(self, path: str, number: int, words: list[str]) -> None:
        self.path = path
        self.number = number
        self.words = words


def read(path: str, missing: str) -> Iterator[Line]:
    """Yield lines that have words; ShimError if the file can't be read, with the hint `missing` if it is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            texts = stream.read().split("\n")
    except OSError as error:
        hints = {FileNotFoundError: missing, PermissionError: f"chmod 644 {path}"}
        raise ShimError(f"{path}: {error.strerror}", hints.get(type(error), "correct the file")) from None
    number = 0
    while texts:
        number, first = number + 1, number + 1
        text = texts.pop(0)
        while text.endswith("\\") and texts:
            number, text = number + 1, f"{text[:-1]} {texts.pop(0)}"
        try:
            words = shlex.split(text, comments=True)
        except ValueError as error:
            raise ShimError(f"{path}: line {first}: {error}", "correct the file") from None
        if words:
            yield Line(path, first, words)


def read_all(path: str, missing: str, depth: int = DEPTH) -> Iterator[Line]:
    """Yield the lines of a file and of those that it includes, relative to it; those that include are left out."""
    for line in read(path, missing):
        if line.words[0].lower() != "include":
            yield line
            continue
        for pattern in line.words[1:]:
            for other in sorted(glob.glob(os.path.join(os.path.dirname(path), pattern))):
                if depth:
                    yield from read_all(other, missing, depth - 1)


def settings(path: str) -> Iterator[dict[str, str]]:
    """Yield {name in lower case: value} of each line of slurm.conf and the files that it includes."""
    for line in read_all(path, ""):
        yield {name.lower(): value.strip('"') for name, value in PAIR.findall(" ".join(line.words))}
