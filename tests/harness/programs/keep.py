"""Takes a checkpoint of a container into a store, as a job does.

`keep.py ROOT ID DIRECTORY HELPER LEAVE_RUNNING [COMPRESS [PAYS]]`. With PAYS, the disk is taken for a slow one.
"""

import os
import sys
import time

sys.path.insert(0, "/usr/lib/oci-criu-shim")
sys.path.append("/usr/lib/python3/dist-packages")

from oci_criu_shim.checkpoints import codec, compression
from oci_criu_shim.checkpoints.store import Store
from oci_criu_shim.container.record import Container
from oci_criu_shim.dump import client, dump, probe
from oci_criu_shim.dump.chain import Link, tracked
from oci_criu_shim.errors import ShimError
from oci_criu_shim.host import mounts


def main(
    root: str, name: str, directory: str, helper: str, leave_running: str, compress: str = "off", pays: str = ""
) -> int:
    container = Container(root, name)
    while (pid := container.alive("init")) is None:
        time.sleep(0.02)  # its supervisor is about to note it
    os.makedirs(directory, mode=0o700, exist_ok=True)
    found = codec.parse(compress)
    if pays:
        mounts.own, probe.SMALLEST, probe.is_faster = (lambda path: ""), 0, lambda *_: True
    compression.SHORTEST = 60  # seconds, however busy the machine is
    made = compression.Compression(found, lambda: 3600, print) if found else None
    store = Store(directory, ".", compression=lambda: made)
    try:
        store.prepare()
        options = {"leave_running": leave_running == "yes"}
        link = Link(container, leave_running == "yes" and tracked(container)[0])
        dump.Dump(container, pid, options).take(store, "preempt", client.connect(helper or None), link)
    except (ShimError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
