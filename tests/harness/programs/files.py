"""Changes files of its root file system, counts, and tells at the end whether all is as it left it.

`files.py LEDGER TICKS SECONDS` needs /data in that file system, as tests/slurm/test_layers.py makes it.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

DATA = Path("/data")


def change() -> None:
    """Each way that a tree can change, once."""
    (DATA / "new").mkdir(mode=0o750)
    (DATA / "new/file").write_text("made")
    (DATA / "new/file").chmod(0o640)
    os.utime(DATA / "new/file", (1, 1))
    (DATA / "new/link").symlink_to("file")
    os.link(DATA / "new/file", DATA / "new/other")
    os.mkfifo(DATA / "new/fifo", 0o600)
    (DATA / "new/closed").write_text("closed")
    (DATA / "new/closed").chmod(0)
    (DATA / "new/locked").mkdir()
    (DATA / "new/locked/file").write_text("locked")
    (DATA / "new/locked").chmod(0o555)
    (DATA / "changed").write_text("changed")
    (DATA / "both").write_text("this task's")
    (DATA / "mode").chmod(0o700)
    (DATA / "named").rename(DATA / "renamed")
    (DATA / "directory").rename(DATA / "moved")
    (DATA / "deleted").unlink()
    (DATA / "gone/inner").unlink()
    (DATA / "gone").rmdir()
    (DATA / "was-file").unlink()
    (DATA / "was-file").mkdir()
    (DATA / "was-directory/inner").unlink()
    (DATA / "was-directory").rmdir()
    (DATA / "was-directory").write_text("a file now")


def look() -> dict[str, object]:
    """{path: what there is}, but for what others have written there."""
    found: dict[str, object] = {}
    for path in sorted(set(DATA.rglob("*")) - {DATA / "both", DATA / "others"}):
        status = path.lstat()
        known: list[object] = [oct(status.st_mode), status.st_uid, status.st_gid]
        if path.is_symlink():
            known.append(os.readlink(path))
        elif path.is_file():
            known += [path.read_text() if status.st_mode & stat.S_IRUSR else status.st_size]
            known += [status.st_mtime_ns, status.st_nlink]
        found[str(path)] = known
    return found


def main() -> None:
    ledger, ticks, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    change()
    with (DATA / "open").open("w+") as held, open(ledger, "w") as counted:
        held.write("held")
        held.flush()
        before = look()
        for tick in range(1, ticks + 1):
            print(f"tick {tick}", flush=True)
            print(tick, file=counted, flush=True)
            time.sleep(pause)
        after = look()
        held.seek(0)
        print("same" if after == before and held.read() == "held" else f"{before}\n{after}", flush=True)


main()
