"""The manifest's types say what its schema says."""

from __future__ import annotations

import types
import typing
from typing import TYPE_CHECKING, Any

from oci_criu_shim import schema
from oci_criu_shim.checkpoints.manifest import Compressed, Draft, Extra, Manifest, Needs, Written
from oci_criu_shim.host.external import External

if TYPE_CHECKING:
    from oci_criu_shim.files import Document

SCHEMA = schema.load("manifest")
NAMES = {str: "string", int: "integer", bool: "boolean", float: "number"}
# What our manifests must have, and restore/foreign.py doesn't find out about checkpoints of other runtimes.
OURS = {"version", "container", "created", "node", "kernel", "criu", "reason", "bytes", "checksum", "network"}


def rule(expected: Document) -> Document:
    """Return a rule of the schema, followed if it is a reference, without what types can't say."""
    name = expected.get("$ref", "").removeprefix("#/$defs/")
    found = SCHEMA["$defs"][name] if name else expected
    if name == "clock":
        return {"type": "object", "additionalProperties": {"type": "integer"}}
    kept = {key: found[key] for key in ("type", "required", "properties") if key in found}
    for key in ("items", "additionalProperties"):
        if key in found:
            kept[key] = rule(found[key])
    if kept.pop("properties", {}):
        kept["properties"] = {name: rule(value) for name, value in found["properties"].items()}
        kept["required"] = sorted(found["required"])
    return kept


def rule_of(kind: Any) -> Document:
    """Return the rule that a type stands for."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return rule_of(inner[0])  # only another runtime's clock is None
    if origin is list:
        return {"type": "array", "items": rule_of(inner[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": rule_of(inner[1])}
    if not typing.is_typeddict(kind):
        return {"type": NAMES[kind]}
    properties = {name: rule_of(value) for name, value in typing.get_type_hints(kind).items()}
    return {"type": "object", "required": sorted(kind.__required_keys__), "properties": properties}


def test_the_manifest() -> None:
    expected, found = rule(SCHEMA), rule_of(Manifest)
    assert found["properties"] == expected["properties"]
    assert set(found["required"]) | OURS == set(expected["required"])
    assert OURS.isdisjoint(found["required"])


def test_its_rows() -> None:
    for kind in (Compressed, External, Needs, Written):
        assert rule_of(kind) == rule(SCHEMA["$defs"][kind.__name__.lower()])


def test_what_is_added_to_it() -> None:
    hints = typing.get_type_hints(Manifest)
    assert {name: hints[name] for name in Extra.__optional_keys__} == typing.get_type_hints(Extra)
    assert Manifest.__required_keys__ - Draft.__required_keys__ == {"sha256"}
