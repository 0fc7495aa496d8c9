"""Put back the changes that a task had made in its root file system."""

from __future__ import annotations

from oci_criu_shim import files
from oci_criu_shim.container.record import APPLIED_LAYER
from oci_criu_shim.host.userns import Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_criu_shim.checkpoints.committed import Checkpoint
    from oci_criu_shim.container.bundle import Bundle
    from oci_criu_shim.container.record import Container


def put_back(checkpoint: Checkpoint, container: Container, bundle: Bundle) -> None:
    """Apply the checkpoint's layer to the root file system. Raise Misfit or ShimError if that fails."""
    from oci_criu_shim.checkpoints.applying import Application  # tarfile takes long, and most have no layer
    from oci_criu_shim.checkpoints.layer import Layer

    layer = Layer(checkpoint.path)
    Child(Application(layer, bundle.rootfs).run).result()
    files.write_json(container.path(APPLIED_LAYER), [layer.names, layer.deleted])
