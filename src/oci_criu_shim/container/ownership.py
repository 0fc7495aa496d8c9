"""Whose a directory with containers is. Root must know before it reads any of it: what is in there says which programs
are run and which processes are signalled.

Nothing in a job's directory is asked for that, nor the directory itself: its user can mount on it what names any owner,
or never answers.
"""

from __future__ import annotations

import os
import stat

from oci_criu_shim import files
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import process
from oci_criu_shim.slurm.tasks import RUN_DIRECTORY

RECORD = ".owner"  # RUN_DIRECTORY/<job>.owner, root's: "UID GID\n", as Slurm has them (spank/rundir.c)
LONGEST = 32
IDS = range((1 << 32) - 1)
ABOVE = ("/", os.path.dirname(RUN_DIRECTORY), RUN_DIRECTORY)  # where no user has had a directory to mount anything on
MOUNTS = "/proc/self/mountinfo"
LINKS = 40  # that one path may lead through, as of the kernel (path_resolution(7))


class User:
    """A job's user, by numbers."""

    def __init__(self, uid: int, gid: int) -> None:
        self.uid = uid
        self.gid = gid

    @property
    def name(self) -> str:
        """What the node calls him."""
        return process.user_name(self.uid)


def user_of(path: str) -> User | None:
    """The user of the job in whose directory the absolute `path` is; None where nobody but root can have put there
    what is on the way to it, or it is not there yet. ShimError: it is anybody else's."""
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
    """Raise ShimError where we are root, and others could lead us by what is in the directory `path`. A user has no
    rights there but his own."""
    if is_root() and (user := user_of(path)):
        raise _belongs(path, user.uid)


def is_root() -> bool:
    """Whether we are the node's root."""
    return os.geteuid() == 0 and not process.in_a_user_namespace()


def by(name: str) -> str:
    """What to do where only the user of that name should do it."""
    return f"as that user: runuser --pty -u {name} -- oci-criu-shim …"


def _belongs(path: str, uid: int) -> ShimError:
    name = process.user_name(uid)
    return ShimError(f"{path} belongs to user {name}, by whom root could be led", by(name))


def _names(path: str) -> list[str]:
    """The parts of a path, the first one last."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return [*reversed(parts), *(["/"] if path.startswith("/") else [])]


def _look(here: str, mount: str) -> tuple[os.stat_result, str, str]:
    """The status of `here`, where it leads as a link, and the number of the mount that it is on, its parent being on
    `mount`. ShimError where that is a user's: on what is his own one may mount a file system that says it is root's."""
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
    """Who mounted it: root, unless FUSE says something else (mount.fuse(8), user_id). ShimError where it is gone."""
    with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as stream:
        fields = next((line.split() for line in stream if line.startswith(f"{mount} ")), None)
    if fields is None:
        raise ShimError("what is mounted there changes meanwhile", "try again")
    users = [option.removeprefix("user_id=") for option in fields[-1].split(",") if option.startswith("user_id=")]
    return int(users[0]) if users else 0


def _is_shared(here: str, found: os.stat_result) -> bool:
    """Whether anybody may make something in it, and nobody move root's own (inode(7), sticky bit)."""
    if not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
        return True
    hint = f"chmod go-w {here}, or name a directory that only root can write, with all above it"
    raise ShimError(f"{here} can be written by others, by whom root could be led", hint)


def _recorded(directory: str) -> User:
    """The user of a job's directory; ShimError where that is not known."""
    path = directory + RECORD
    try:
        data = files.read_regular(path, LONGEST, owner=0)
        uid, gid = map(int, data.split())
        if data != b"%d %d\n" % (uid, gid) or uid not in IDS or gid not in IDS:
            raise ValueError
    except FileNotFoundError:
        hint = "it is gone when the job has left the node, and jobs that an earlier version began have none"
        raise ShimError(f"there is no {path}, which says whose {directory} is", hint) from None
    except ValueError:
        raise ShimError(f"{path} does not say whose {directory} is", "look at the node: the file is root's") from None
    return User(uid, gid)
