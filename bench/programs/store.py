"""Times dumps, restores and compression, in a node, as root; prints JSON.

`store.py sizes MIB RUNS`     {program: {what: [seconds]}}, program is `plain` (CRIU by itself) or `shim`
`store.py codecs MIB RUNS`    {codec: {bytes, pack: [seconds], unpack: [seconds]}}, of what CRIU dumps of a program
"""

import json
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, "/usr/lib/oci-criu-shim")
sys.path.append("/usr/lib/python3/dist-packages")

from oci_criu_shim.checkpoints import codec

BUNDLE = "/shared/store"
READY = "ready"
MEMORY = os.path.join(os.path.dirname(__file__), "memory.py")
IMAGES = "/home/alice/bench-images"
RAW = f"{IMAGES}/pages-1.img"
SHIM = ("oci-criu-shim", "--root=/run/bench-store")
NULL = subprocess.DEVNULL
CODECS = ("lz4", "lz4:3", "zstd:1", "zstd:3", "zstd:6")


def timed(*argv: str) -> float:
    os.sync()  # nothing of what came before is still to be written
    begin = time.perf_counter()
    subprocess.run(argv, stdin=NULL, stdout=NULL, stderr=NULL, check=True)
    return time.perf_counter() - begin


def wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.05)
    os.unlink(path)


def start(kind: str, mib: str) -> "subprocess.Popen[bytes]":
    """Start a program in a new session, with no descriptor of ours."""
    ready = f"/run/{READY}"
    argv = ["python3", "-IS", MEMORY, kind, mib, ready]
    child = subprocess.Popen(argv, stdin=NULL, stdout=NULL, stderr=NULL, start_new_session=True)
    wait_for(ready)
    return child


def dump(child: "subprocess.Popen[bytes]") -> float:
    os.mkdir(IMAGES, 0o700)
    argv = ("criu", "dump", f"--tree={child.pid}", f"--images-dir={IMAGES}", "--manage-cgroups=ignore")
    seconds = timed(*argv)
    child.wait()
    return seconds


def plain(mib: str) -> dict[str, float]:
    child = start("random", mib)
    found = {"dump": dump(child)}
    argv = ("criu", "restore", f"--images-dir={IMAGES}", "--restore-detached", "--manage-cgroups=ignore")
    found["restore"] = timed(*argv)
    os.kill(child.pid, 9)
    return found


def shim(mib: str) -> dict[str, float]:
    configure(mib)
    timed(*SHIM, "run", "--detach", f"--bundle={BUNDLE}", "one")
    wait_for(f"{BUNDLE}/rootfs/{READY}")
    found = {"dump": timed(*SHIM, "checkpoint", f"--image-path={IMAGES}", "one")}
    with open(f"{IMAGES}/manifest.json", encoding="utf-8") as stream:
        found["frozen"] = json.load(stream)["frozen_seconds"]
    found["restore"] = timed(*SHIM, "restore", "--detach", f"--image-path={IMAGES}", f"--bundle={BUNDLE}", "one")
    timed(*SHIM, "delete", "--force", "one")
    return found


def configure(mib: str) -> None:
    shutil.copy(MEMORY, f"{BUNDLE}/rootfs/memory.py")
    with open(f"{BUNDLE}/config.json", encoding="utf-8") as stream:
        spec = json.load(stream)
    spec["process"]["args"] = ["python3", "-IS", "/memory.py", "random", mib, f"/{READY}"]
    with open(f"{BUNDLE}/config.json", "w", encoding="utf-8") as stream:
        json.dump(spec, stream)


def sizes(mib: str, runs: int) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {"plain": {}, "shim": {}}
    for _ in range(runs):
        for name, one in (("plain", plain), ("shim", shim)):
            for what, seconds in one(mib).items():
                found[name].setdefault(what, []).append(seconds)
            shutil.rmtree(IMAGES)
    return found


def codecs(mib: str, runs: int) -> dict[str, dict[str, object]]:
    dump(start("numpy", mib))
    found: dict[str, dict[str, object]] = {"raw": {"bytes": os.path.getsize(RAW)}}
    for name in CODECS:
        times: dict[str, list[float]] = {"pack": [], "unpack": []}
        for _ in range(runs):
            for what, seconds in once(name).items():
                times[what].append(seconds)
            size = os.path.getsize(f"{RAW}.packed")
        found[name] = {"bytes": size, **times}
    shutil.rmtree(IMAGES)
    return found


def once(name: str) -> dict[str, float]:
    chosen = codec.parse(name)
    assert chosen
    for path in (f"{RAW}.packed", f"{RAW}.again"):
        if os.path.exists(path):
            os.unlink(path)
    os.sync()
    with codec.Pool() as pool:
        begin = time.perf_counter()
        assert codec.pack(chosen, RAW, f"{RAW}.packed", pool, lambda _: None)
        packed = time.perf_counter()
        for _ in codec.unpack(chosen, f"{RAW}.packed", f"{RAW}.again", os.path.getsize(RAW), codec.FRAME, pool):
            pass
        return {"pack": packed - begin, "unpack": time.perf_counter() - packed}


if __name__ == "__main__":
    print(json.dumps({"sizes": sizes, "codecs": codecs}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))))
