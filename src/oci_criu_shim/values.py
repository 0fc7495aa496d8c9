"""What a setting is (config.py), and the kinds of values that settings have: each says what it must be, and converts
it."""

from __future__ import annotations

import os

from oci_criu_shim import units
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Kind = tuple[str, Callable[..., object]]
    """An error's words about a value that doesn't fit, as "must be at least 1"; and a function that converts a value of
    the file to one of Settings, and raises ValueError if it doesn't fit, or a ShimError that says why."""

TYPES = {int: "must be a whole number", bool: "must be true or false, without quotes", dict: "must be a table"}
LAYERS = ("auto", "always", "never")  # when checkpoints include changes to the root file system
CONNECTIONS = ("close", "refuse")  # what becomes of TCP connections in the node's network
AUTO = "auto"  # the value of `compress` by which memory is compressed on its way to the disk, if that is sooner there
COMPRESSION = {"zstd": range(1, 20), "lz4": range(13)}  # levels; the first is the default: see docs/compression.md


class Setting:
    """One setting: its name and default in the file, the kind of its values, and the text that describes it.

    `example` holds lines of the file that are shown in place of the default.
    """

    def __init__(self, name: str, default: object, kind: Kind, text: str, example: str = "") -> None:
        self.name = name
        self.default = default
        self.must, self.convert = kind
        self.text = " ".join(text.split())
        self.example = example

    def read(self, value: object, place: str = "") -> object:
        """Return a value of the file as Settings has it; ShimError, which begins with `place`, if it doesn't fit."""
        kind = type(self.default)
        if type(value) is not kind:
            must = TYPES.get(kind) or (f"{self.must}, in quotes" if self.must else "must be in quotes")
            raise ShimError(f"{place}{self.name} {must}, not {shown(value)}")
        try:
            return self.convert(value)
        except ValueError:
            raise ShimError(f"{place}{self.name} {self.must}, not {shown(value)}") from None
        except ShimError as error:
            name = "" if kind is dict else f"{self.name}: "
            raise ShimError(f"{place}{name}{error}", error.hint) from None

    def lines(self) -> str:
        """Return the setting's lines of config.toml."""
        return self.example or f"{self.name} = {shown(self.default)}"


def shown(value: object) -> str:
    """Return a value as config.toml has it, on one line: values other than tables are written as in JSON."""
    import json

    return json.dumps(value, default=str, ensure_ascii=False)


def parse_compression(text: str) -> tuple[str, int] | None:
    """Return (name, level) of `zstd`, `zstd:LEVEL`, `lz4`, `lz4:LEVEL` or `auto`, None of `off`; ValueError for any
    other."""
    name, colon, level = text.partition(":")
    if text == "off":
        return None
    if text == AUTO:
        return next((name, levels[0]) for name, levels in COMPRESSION.items())
    number = int(level) if colon else COMPRESSION.get(name, (0,))[0]
    if number not in COMPRESSION.get(name, ()):
        raise ValueError(text)
    return name, number


def _compression(text: str) -> str:
    parse_compression(text)
    return text


def at_least(least: int) -> Kind:
    """Return the kind of numbers from `least` on."""

    def read(number: int) -> int:
        if number < least:
            raise ValueError(number)
        return number

    return f"must be at least {least}", read


def _above_zero(convert: Callable[[str], int]) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (number := convert(text)):
            raise ValueError(text)
        return number

    return read


def _backend(name: str) -> str:
    if "/" in name and not name.startswith("/"):
        raise ValueError(name)
    return name


def _when(text: str) -> str:
    from oci_criu_shim import when  # plain containers ask for `backend` only

    when.parse(text)
    return text


def is_each_users(place: str) -> bool:
    """Return whether a directory of the file is another one for each user."""
    return place.startswith("~") or "$" in place


def _place(text: str) -> str:
    """Return a directory as this user has it: `~`, $HOME and $USER are the user's, and no other variable is taken."""
    path = _variable("HOME") + text[1:] if text == "~" or text.startswith("~/") else text
    if "$" in path:
        import re

        path = re.sub(r"\$(?:(\w+)|\{(\w+)\})", lambda match: _variable(match[1] or match[2]), path)
    if not path.startswith("/") or "$" in path:
        raise ValueError(text)
    return path


def _shared(text: str) -> str:
    if text and (not text.startswith("/") or "$" in text):
        raise ValueError(text)
    return text


def _variable(name: str) -> str:
    """Return the user's HOME or USER, as the system's users have it; ValueError for any other variable.

    In a job the environment's HOME may be that of the slurmd, which is root's. Root of a user namespace is root in the
    system's users: there, and for root, the environment counts.
    """
    import pwd

    column = {"USER": 0, "HOME": 5}.get(name)
    if column is None:
        raise ValueError(name)
    try:
        value = str(pwd.getpwuid(os.geteuid())[column])
    except KeyError:
        value = ""
    given = os.environ.get(name, "")
    found = given or value if os.geteuid() == 0 else value or given
    is_right = found.startswith("/") if name == "HOME" else found.strip(".") and "/" not in found
    if not is_right:
        raise ShimError(f"user {os.geteuid()} has no ${name} on this node")
    return found


def _feature(name: str) -> str:
    if not all(character.isalnum() or character in "_.-" for character in name):
        raise ValueError(name)
    return name


def _layers(word: str) -> str:
    if word not in LAYERS:
        raise ValueError(word)
    return word


def _connections(word: str) -> str:
    if word not in CONNECTIONS:
        raise ValueError(word)
    return word


def _names(text: str) -> list[str]:
    found = text.replace(",", " ").split()
    if not found or ({"all", "none"} & {*found} and len(found) > 1) or "@" in found:
        raise ValueError(text)
    return found


ANY: Kind = "", lambda value: value
PROGRAM: Kind = "is the name of a program, or its absolute path", _backend
WHEN: Kind = "", _when
PLACE: Kind = "must be absolute or begin with ~/, with no variables but $USER and $HOME", _place
SHARED: Kind = "must be absolute, without variables", _shared
SIZE: Kind = "is a size such as 20G or 1.5T", units.parse_size
QUOTA: Kind = SIZE[0], lambda text: units.parse_size(text or "0")
RATE: Kind = SIZE[0], _above_zero(units.parse_size)
TIME: Kind = "is a time such as 90s, 30m or 7d", units.parse_time
LONG: Kind = TIME[0], _above_zero(units.parse_time)
NAMES: Kind = "is all, none, or names of users and @groups", _names
FEATURE: Kind = "is a node's feature", _feature
LAYER: Kind = f"is {', '.join(LAYERS[:2])} or {LAYERS[2]}", _layers
TCP: Kind = f"is {CONNECTIONS[0]} or {CONNECTIONS[1]}", _connections
LEVELS = ", ".join(f"{name}:{min(levels)} to {name}:{max(levels)}" for name, levels in COMPRESSION.items())
COMPRESS: Kind = f"is {AUTO}, off, zstd, lz4, or {LEVELS}", _compression
