"""Read the CRIU configuration file that runc and crun would hand to CRIU: that of an annotation, or the site's own.

Each line of it is an option of CRIU's (criu(8), CONFIGURATION FILES). CRIU never gets the file: what is known to be
safe becomes part of its request, and anything else is refused. It is for root's own containers only.
"""

from __future__ import annotations

import os

from oci_criu_shim import files, units
from oci_criu_shim.errors import ShimError, cause_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_criu_shim.container.bundle import Bundle

    Settings = dict[str, str]
    """{CRIU's option: its value, empty if it takes none}."""

ANNOTATION = "org.criu.config"  # its value is a path; if that is empty, no file is read
SITES = "/etc/criu"
DEFAULTS = {"crun": ("crun.conf", "runc.conf"), "runc": ("runc.conf",)}  # the first that there is
LARGEST = 1 << 16  # bytes of a file
MOST = (1 << 32) - 1  # what a uint32 of CRIU's request holds
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz-")
LOCKS = ("iptables", "nftables", "skip")


def _nothing(text: str) -> bool:
    return text == ""


def _anything(text: str) -> bool:
    return True


def _is_number(text: str) -> bool:
    return text.isdecimal() and int(text) <= MOST


def _is_size(text: str) -> bool:
    try:
        return units.parse_size(text) <= MOST
    except ValueError:
        return False


# {option: which values it takes}. What stands first is always done, whatever is asked, or is config.json's business.
KNOWN: dict[str, Callable[[str], bool]] = {
    **dict.fromkeys(("auto-dedup", "file-locks", "link-remap", "skip-in-flight"), _nothing),
    "manage-cgroups": _anything,
    **dict.fromkeys(("ext-unix-sk", "shell-job", "tcp-close", "tcp-established"), _nothing),
    "ghost-limit": _is_size,
    "log-file": bool,
    "lsm-mount-context": bool,
    "lsm-profile": lambda text: ":" in text,
    "network-lock": lambda text: text in LOCKS,
    "timeout": _is_number,
    "verbosity": lambda text: text in ("0", "1", "2", "3", "4"),
}


def read(bundle: Bundle, dialect: str) -> Settings:
    """Return the settings for a container of root's, whose backend speaks `dialect`.

    Raise ShimError if the file that is to be read can't be, or has anything but options that are known here.
    """
    path = _path(bundle, dialect)
    if not path:
        return {}
    try:
        # Root's file: an annotation may come from an image, and name what somebody else has written.
        text = files.read_regular(os.path.realpath(path), LARGEST, owner=0).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ShimError(f"cannot read CRIU's configuration {path}: {cause_of(error)}", _hint(bundle)) from None
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if words := _words(line):
            fault = _fault(path, *words)
            if fault:
                raise ShimError(f"{path}, line {number}: {fault}", _hint(bundle))
            found[words[0]] = words[1]
    return found


def log_file(settings: Settings, work: str) -> str | None:
    """Return the path at which CRIU's log is to be, relative to the directory `work`; None if that is not said."""
    return os.path.join(work, settings["log-file"]) if "log-file" in settings else None


def ignored(bundle: Bundle) -> str:
    """Return a line that says that a user's container has no such settings; empty if it asks for none."""
    if not bundle.annotations.get(ANNOTATION):
        return ""
    return f"{bundle.file}: the annotation {ANNOTATION} is ignored: it is for root's containers only"


def _path(bundle: Bundle, dialect: str) -> str:
    if ANNOTATION in bundle.annotations:
        return bundle.annotations[ANNOTATION]
    paths = [os.path.join(SITES, name) for name in DEFAULTS[dialect]]
    return next(filter(os.path.exists, paths), "")


def _hint(bundle: Bundle) -> str:
    where = f"the annotation {ANNOTATION}" if ANNOTATION in bundle.annotations else f"an empty annotation {ANNOTATION}"
    return f"known are {', '.join(sorted(KNOWN))}; {where} chooses another file, or none"


def _words(line: str) -> tuple[str, str] | None:
    """Return a line's option and its value; None for an empty line. CRIU takes `NAME VALUE` and `NAME=VALUE`."""
    import shlex

    try:
        name, *values = shlex.split(line, comments=True) or [""]
    except ValueError:
        return line, ""
    name, _, value = name.partition("=")
    return (name, " ".join([*filter(None, [value]), *values])) if name else None


def _fault(path: str, name: str, value: str) -> str:
    """Return what is wrong with an option; empty if nothing is."""
    if not LETTERS.issuperset(name):
        return "it is no option of CRIU's"  # it may be any file, which must not be shown
    if name not in KNOWN:
        return f"CRIU's option {name} can't be had here"
    if not KNOWN[name](value):
        return f"{name} can't be {value!r}" if value else f"{name} needs a value"
    if name == "log-file" and "/" in value and os.path.dirname(path) != SITES:
        return f"only files of {SITES} put log-file elsewhere than in --work-path"
    return ""
