"""An image for the README's `podman export`: any machine that has podman and an image will do, here it is n1's root."""

from __future__ import annotations

from tests.harness.cluster import Cluster
from tests.harness.cluster.bundle import BUNDLE, quiet
from tests.harness.cluster.process import run
from tests.harness.cluster.rootfs import ensure

STORAGE = '[storage]\ndriver = "vfs"\ngraphroot = "/run/podman/root"\nrunroot = "/run/podman/run"\n'
SMALL = "localhost/small"


def export(cluster: Cluster, command: str) -> None:
    """Run a command that exports the image IMAGE to a file, in alice's home directory."""
    run(["tar", "-C", str(ensure(BUNDLE, quiet)), "-cf", str(cluster.shared / "small.tar"), "."])
    cluster.exec("n1", ["tee", "/etc/containers/storage.conf"], "root", input=STORAGE)
    cluster.exec("n1", ["podman", "import", "--quiet", "/shared/small.tar", SMALL], "root")
    # An image that was imported has no command of its own, which `podman create` asks for.
    named = command.replace("IMAGE", f"{SMALL} sh")
    cluster.exec("n1", ["sh", "-ec", named], "root", cwd="/home/alice")
