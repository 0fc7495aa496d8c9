"""Write files so that a reader, or a crash, sees all of the old one or all of the new one; read and remove files."""

from __future__ import annotations

import errno
import os
import stat
import time

# The directory of the installation: the package, the worker, the plugin's programs.
LIBDIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TEMPORARY = ".tmp"  # suffix of files that are not complete yet
BLANKS = " \t\n\r"  # of JSON (RFC 8259)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]
    """A JSON object whose shape others define, such as config.json."""
    Json = Any
    """Any JSON value."""


def write_atomically(path: str, data: bytes, mode: int = 0o600, durable: bool = False) -> None:
    """Replace `path` by `data`; if `durable`, the data is on disk before the name is."""
    temporary = f"{path}.{os.getpid()}{TEMPORARY}"
    made = False
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        made = True
        with open(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(descriptor)
        os.rename(temporary, path)
    except BaseException as error:
        if made:
            remove_if_there(temporary)
        if isinstance(error, OSError):
            error.filename, error.filename2 = path, None  # nobody else knows of the other one
        raise


def link_atomically(target: str, path: str) -> None:
    """Make `path` a symbolic link to `target`, in place of what it was."""
    temporary = f"{path}.{os.getpid()}{TEMPORARY}"
    os.symlink(target, temporary)
    try:
        os.rename(temporary, path)
    except BaseException:
        remove_if_there(temporary)
        raise


def write_json(path: str, document: object, durable: bool = False, indent: int | None = None) -> None:
    """Replace `path` by `document` as JSON, with write_atomically()."""
    write_atomically(path, to_json(document, indent).encode(), durable=durable)


def to_json(document: object, indent: int | None = None) -> str:
    """Return json.dumps() of `document`.

    As in parse_json(), CPython's own encoder in C does it if it can.
    """
    if indent is None:
        try:
            from _json import encode_basestring_ascii, make_encoder

            encode = make_encoder({}, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, True)
            return "".join(encode(document, 0))
        except (ImportError, TypeError):
            pass  # json names the fault
    import json

    return json.dumps(document, indent=indent)


def _refuse(value: object) -> object:
    raise TypeError(value)


def read_json(path: str) -> Json:
    """Return the JSON document in `path`; OSError or ValueError if there is none."""
    with open(path, encoding="utf-8") as stream:
        return parse_json(stream.read())


def read_regular(path: str, most: int, owner: int | None = None) -> bytes:
    """Return the content of the regular file `path`, of at most `most` bytes; OSError if it is anything else.

    It follows no link, and doesn't wait, as open(2) does for a FIFO. If `owner` is given, the file must belong to that
    user, and no other user may write it.
    """
    with open(path, "rb", opener=_carefully) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a plain file", path)
        if owner is not None and (status.st_uid != owner or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            raise OSError(errno.EPERM, "not a file that only its owner can write", path)
        if status.st_size > most:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return stream.read(status.st_size)


def read_end(path: str, most: int) -> bytes:
    """Return the last `most` bytes of the regular file `path`; OSError if it is anything else."""
    with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a plain file", path)
        stream.seek(max(status.st_size - most, 0))
        return stream.read(most)


def _carefully(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)


def parse_json(text: str) -> Json:
    """Return json.loads() of `text`; ValueError if it is no JSON.

    CPython's scanner in C does it alone if it can: importing json takes longer than Python's own start, and every
    container waits for it.
    """
    try:
        from _json import make_scanner

        scan: Json = make_scanner(_Scanning())  # type: ignore[arg-type]  # typeshed has the class itself there
        document, end = scan(text, len(text) - len(text.lstrip(BLANKS)))
        if not text[end:].strip(BLANKS):
            return document
    except (ImportError, StopIteration, ValueError):
        pass  # json names the fault and its place
    import json

    return json.loads(text)


class _Scanning:
    """Options of the scanner, as json.JSONDecoder has them."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = parse_constant = float
    parse_int = int


def digest(text: str) -> str:
    """Return the SHA-256 of `text`, in hexadecimal digits."""
    import hashlib  # it takes longer to import than all the rest of a start

    return hashlib.sha256(text.encode()).hexdigest()


def read_number(path: str) -> int:
    """Return the decimal number in `path`; OSError or ValueError if there is none."""
    with open(path, "rb") as stream:
        return int(stream.read())


def remove_if_there(path: str, parent: int | None = None) -> None:
    """Unlink `path` (below the directory `parent`, if any), if it is there."""
    try:
        os.unlink(path, dir_fd=parent)
    except FileNotFoundError:
        pass


def remove_tree(path: str, parent: int | None = None) -> None:
    """Remove the directory `path` (below the directory `parent`, if any) and everything in it, if it is there.

    It follows no symbolic link, and removes all that it can: the first error is raised at the end. Importing shutil,
    which has such a function, takes longer than to remove what is removed here.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        return
    failed: OSError | None = None
    try:
        with os.scandir(descriptor) as entries:
            for entry in list(entries):
                try:
                    (remove_tree if entry.is_dir(follow_symlinks=False) else remove_if_there)(entry.name, descriptor)
                except OSError as error:
                    failed = failed or error
    finally:
        os.close(descriptor)
    if failed:
        raise failed
    try:
        os.rmdir(path, dir_fd=parent)
    except FileNotFoundError:
        pass


def make_directories(path: str) -> None:
    """Make a directory and its parents, for their owner alone; os.makedirs() uses its mode for the last one only."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        make_directories(os.path.dirname(path))
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass


def link_tree(source: str, target: str) -> None:
    """Make the directory `target`, of hard links to the files below `source`."""
    os.mkdir(target, 0o700)
    for name in os.listdir(source):
        place, linked = os.path.join(source, name), os.path.join(target, name)
        if os.path.isdir(place):
            link_tree(place, linked)
        else:
            os.link(place, linked)


def tree_size(path: str) -> int:
    """Return the bytes of all regular files below `path`; those that can't be read count as nothing."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_size
            except OSError:
                pass
    return total


def sync(path: str) -> None:
    """Flush a file, or the names in a directory, to disk (fsync(2) on it)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def timestamp() -> str:
    """Return the time in UTC, as JSON documents of containers have it (RFC 3339)."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
