"""The site's settings: /etc/oci-criu-shim/config.toml, read only when a checkpoint is concerned."""

from __future__ import annotations

import os

from oci_criu_shim import units
from oci_criu_shim.errors import ShimError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PATH = "/etc/oci-criu-shim/config.toml"
# Every setting, its default and its type; etc/config.toml explains them.
DEFAULTS: dict[str, Any] = {
    "backend": "",
    "checkpoint-dir": "~/.local/state/oci-criu-shim",
    "keep": 2,
    "quota": "",
    "fresh-start": False,
    "keep-ended": "7d",
    "rollback": True,
    "layers": "auto",
    "increments": True,
    "max-restarts": 3,
    "feature": "",
    "compress": "off",
    "checkpoint": "preempt",
    "partitions": {},
    "margin": "10s",
    "mtbf": "30d",
    "dump-rate": "200M",
}
LAYERS = ("auto", "always", "never")  # when checkpoints have what has changed in the root file system
PER_PARTITION = ("checkpoint",)
SIZE, TIME = "size such as 20G or 1.5T", "time such as 90s, 30m or 7d"
UNITS = (
    ("quota", units.parse_size, SIZE),
    ("keep-ended", units.parse_time, TIME),
    ("margin", units.parse_time, TIME),
    ("mtbf", units.parse_time, TIME),
    ("dump-rate", units.parse_size, SIZE),
)


class Settings:
    """`backend` is a runtime's name or path, or empty; `checkpoint_dir` is absolute; `keep` counts checkpoints; `quota`
    is in bytes, 0 where there is none; `fresh_start` allows a restarted task to begin again where it has none;
    `rollback` has files that have grown since a checkpoint cut back to their length at it; `layers` is one of LAYERS;
    `increments` lets checkpoints have only what changed since the one before;
    `max_restarts` is how often it is restored without getting further, 0 for ever; `feature` is one of nodes, which
    requeued jobs ask for, or empty; `compress` is what codec.parse() reads; `keep_ended`, `margin` and `mtbf` are
    seconds, `dump_rate` bytes per second (schedule.Schedule, estimate.Estimate)."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.backend: str = values["backend"]
        self.checkpoint_dir: str = os.path.expanduser(values["checkpoint-dir"])
        self.keep: int = values["keep"]
        self.quota: int = units.parse_size(values["quota"] or "0")
        self.fresh_start: bool = values["fresh-start"]
        self.keep_ended: int = units.parse_time(values["keep-ended"])
        self.rollback: bool = values["rollback"]
        self.layers: str = values["layers"]
        self.increments: bool = values["increments"]
        self.max_restarts: int = values["max-restarts"]
        self.feature: str = values["feature"]
        self.compress: str = values["compress"]
        self.checkpoint: str = values["checkpoint"]
        self.partitions: dict[str, dict[str, str]] = values["partitions"]
        self.margin: int = units.parse_time(values["margin"])
        self.mtbf: int = units.parse_time(values["mtbf"])
        self.dump_rate: int = units.parse_size(values["dump-rate"])

    def when(self, partition: str) -> str:
        """What `--checkpoint` without a value means in a partition."""
        return self.partitions.get(partition, {}).get("checkpoint", self.checkpoint)


def load(path: str = PATH) -> Settings:
    """The settings in `path`, which may be missing; ShimError names what is wrong in it."""
    import tomllib

    try:
        with open(path, "rb") as stream:
            values = tomllib.load(stream)
    except FileNotFoundError:
        values = {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ShimError(f"{path}: {error}", "correct the file") from None
    for name in values:
        if name not in DEFAULTS:
            raise ShimError(f"{path}: unknown setting {name!r}", f"known: {', '.join(DEFAULTS)}")
    _check_types(path, values)
    for name, least in (("keep", 1), ("max-restarts", 0)):
        if values.get(name, least) < least:
            raise ShimError(f"{path}: {name} must be at least {least}, not {values[name]}")
    if not all(character.isalnum() or character in "_.-" for character in values.get("feature", "")):
        raise ShimError(f"{path}: feature is a node's feature, not {values['feature']!r}")
    if values.get("layers", "auto") not in LAYERS:
        raise ShimError(f"{path}: layers is {', '.join(LAYERS[:2])} or {LAYERS[2]}, not {values['layers']!r}")
    _check_compress(path, values.get("compress", "off"))
    for partition, table in values.get("partitions", {}).items():
        if not isinstance(table, dict) or not set(table) <= set(PER_PARTITION):
            raise ShimError(f"{path}: [partitions.{partition}] may have {', '.join(PER_PARTITION)} only")
        _check_types(f"{path}: [partitions.{partition}]", table)
    for name, parse, such_as in UNITS:
        try:
            parse(values.get(name) or DEFAULTS[name] or "0")
        except ValueError as error:
            raise ShimError(f"{path}: {name} is a {such_as}, not {str(error)!r}") from None
    return Settings({**DEFAULTS, **values})


def _check_types(where: str, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if type(value) is not type(DEFAULTS[name]):
            raise ShimError(f"{where}: {name} must be of type {type(DEFAULTS[name]).__name__}, not {value!r}")


def _check_compress(path: str, value: str) -> None:
    from oci_criu_shim.checkpoints import codec

    try:
        codec.parse(value)
    except ValueError:
        known = ", ".join(f"{name}:{min(levels)} to {name}:{max(levels)}" for name, levels in codec.LEVELS.items())
        raise ShimError(f"{path}: compress is off, zstd, lz4, or {known}, not {value!r}") from None


def backend(path: str = PATH) -> str:
    """The setting `backend`, of which every start of a container asks."""
    return load(path).backend if _mentions(path, "backend") else ""


def increments(path: str = PATH) -> bool:
    """The setting `increments`, of which every increment's worker asks."""
    return load(path).increments if _mentions(path, "increments") else True


def _mentions(path: str, name: str) -> bool:
    """Whether the file is to be parsed for a setting."""
    try:
        with open(path, encoding="utf-8") as stream:
            return any(line.lstrip().startswith(name) for line in stream)
    except FileNotFoundError:
        return False
