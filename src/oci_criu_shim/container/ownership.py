"""Tell which user a directory with containers belongs to.

Root must know that before it reads anything there: the files in it say which programs are run and which processes are
signalled. For a job's directory, the answer comes from neither the directory nor its content: its user can mount a file
system on it that names any owner, or never answers.
"""

from __future__ import annotations

import os
import stat

from oci_criu_shim import files
from oci_criu_shim.errors import Others, ShimError
from oci_criu_shim.host import process
from oci_criu_shim.slurm.tasks import RUN_DIRECTORY

RECORD = ".owner"  # root's file RUN_DIRECTORY/<job>.owner has "UID GID\n", as Slurm has them (spank/rundir.c)
LONGEST = 32  # bytes of it
IDS = range((1 << 32) - 1)
ABOVE = ("/", os.path.dirname(RUN_DIRECTORY), RUN_DIRECTORY)  # on these no user can mount anything
MOUNTS = "/proc/self/mountinfo"
LINKS = 40  # the most that one path may lead through, as in the kernel (path_resolution(7))


class User:
    """A job's user, by uid and gid."""

    def __init__(self, uid: int, gid: int) -> None:
        self.uid = uid
        self.gid = gid

    @property
    def name(self) -> str:
        """Their name on this node."""
        return process.user_name(self.uid)


def user_of(path: str) -> User | None:
    """Return the user of the job in whose directory the absolute `path` is.

    Return None if only root can have made everything on the way to it, or if it does not exist yet. Raise ShimError if
    it belongs to anybody else.
    """
    place, names, links, shared, mount = "/", _names(path), 0, False, ""
    while names:
        name = names.pop()
        here = os.path.normpath(os.path.join(place, name))
        if place == RUN_DIRECTORY and name.isascii() and name.isdecimal() and (user := _recorded(here)).uid:
            return user
        try:
            found, target, now = _look(here, mount)
        except FileNotFoundError:
            if shared:
                raise ShimError(f"{here} is not there, and anybody may make it", f"mkdir -m 700 {here}") from None
            return None
        if found.st_uid:
            raise _belongs(here, found.st_uid)
        if not target:
            place, shared, mount = here, _is_shared(here, found), now
            continue
        links += 1
        if shared or links > LINKS:
            raise ShimError(f"{here} is a link that root does not follow", "name the directory that it leads to")
        names += _names(target)
    if shared:
        raise ShimError(f"{place} is for everybody to write", f"name a directory of root's own in it: {place}/…")
    return None


def require_own(path: str) -> None:
    """Raise ShimError if we are root, and others could mislead us by the content of the directory `path`.

    A user needs no such care: they act with their own rights only.
    """
    if is_root() and (user := user_of(path)):
        raise _belongs(path, user.uid)


def is_root() -> bool:
    """Whether we are the node's root."""
    return os.geteuid() == 0 and not process.in_a_user_namespace()


def by(name: str, words: str = "…") -> str:
    """Return the hint that only the user of that name should do it, by the `words` of this command's line."""
    return f"as that user: `runuser --pty -u {name} -- oci-criu-shim {words}`"


def _belongs(path: str, uid: int) -> ShimError:
    name = process.user_name(uid)
    return Others(f"{path} belongs to user {name}, who could mislead root", by(name), name)


def _names(path: str) -> list[str]:
    """Return the parts of a path, the first one last."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return [*reversed(parts), *(["/"] if path.startswith("/") else [])]


def _look(here: str, mount: str) -> tuple[os.stat_result, str, str]:
    """Return the status of `here`, its target if it is a link, and the id of its mount; its parent's is `mount`.

    Raise ShimError if a user mounted it: users may mount file systems on their own directories, and such a file system
    can claim to be root's.
    """
    handle = os.open(here, os.O_PATH | os.O_NOFOLLOW)
    try:
        now = _mount_of(handle)
        if now != mount and here not in ABOVE and (uid := _mounter(now)):
            raise _belongs(here, uid)
        found = os.fstat(handle)
        return found, os.readlink("", dir_fd=handle) if stat.S_ISLNK(found.st_mode) else "", now
    finally:
        os.close(handle)


def _mount_of(handle: int) -> str:
    with open(f"/proc/self/fdinfo/{handle}", encoding="ascii") as stream:
        return next(line.split()[1] for line in stream if line.startswith("mnt_id:"))


def _mounter(mount: str) -> int:
    """Return the uid of its mounter: root's, unless FUSE names another (mount.fuse(8), user_id).

    Raise ShimError if the mount is gone.
    """
    with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as stream:
        fields = next((line.split() for line in stream if line.startswith(f"{mount} ")), None)
    if fields is None:
        raise ShimError("what is mounted there changes meanwhile", "try again")
    users = [option.removeprefix("user_id=") for option in fields[-1].split(",") if option.startswith("user_id=")]
    return int(users[0]) if users else 0


def _is_shared(here: str, found: os.stat_result) -> bool:
    """Whether anybody may create files in it, but not move root's (inode(7), sticky bit).

    Raise ShimError if others may move root's, too.
    """
    if not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
        return True
    hint = f"chmod go-w {here}, or name a directory that only root can write, with all above it"
    raise ShimError(f"{here} can be written by others, who could mislead root", hint)


def _recorded(directory: str) -> User:
    """Return the user of a job's directory. Raise ShimError if they are not known."""
    path = directory + RECORD
    try:
        data = files.read_regular(path, LONGEST, owner=0)
        uid, gid = map(int, data.split())
        if data != b"%d %d\n" % (uid, gid) or uid not in IDS or gid not in IDS:
            raise ValueError
    except FileNotFoundError:
        hint = "a job that has left the node has none any more, nor has one that an earlier version started"
        raise ShimError(f"there is no {path}, which says whose {directory} is", hint) from None
    except ValueError:
        raise ShimError(f"{path} does not say whose {directory} is", "look at the node: the file is root's") from None
    return User(uid, gid)
