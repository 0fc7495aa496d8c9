"""JSON documents that carry their own checksum, such as a checkpoint's manifest."""

from __future__ import annotations

from oci_criu_shim import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    Sealed = TypeVar("Sealed", bound=Mapping[str, object])

KEY = "checksum"  # of all the rest of the document


def sealed(document: Sealed) -> Sealed:
    """Return `document` with its checksum: a SHA-256 of all but the checksum itself, in one spelling of JSON."""
    import json

    rest = {key: value for key, value in document.items() if key != KEY}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return {**rest, KEY: files.digest(text)}  # type: ignore[return-value]  # one more key
