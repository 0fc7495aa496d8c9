"""Check JSON documents against the schemas in schemas/.

jsonschema finds and words all faults, but importing it costs every job a tenth of a second. So conforms() decides
first, by the few keywords that our schemas use, and jsonschema is asked only about documents that are refused. A unit
test holds both to the same verdicts.
"""

from __future__ import annotations

import os

from oci_criu_shim import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeGuard

    from oci_criu_shim.files import Document, Json

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
    "number": (int, float),
}


def load(name: str) -> Document:
    """Return the schema `name` (`config` or `manifest`)."""
    path = os.path.join(os.path.dirname(__file__), "schemas", f"{name}.json")
    schema: Document = files.read_json(path)
    return schema


def faults(document: object, name: str) -> list[str]:
    """Return all faults of `document` by the schema `name`, each as `path: fault`."""
    schema = load(name)
    if conforms(document, schema, schema):
        return []
    import jsonschema

    found = jsonschema.Draft202012Validator(schema).iter_errors(document)
    lines = [f"{_path(error.absolute_path)}: {error.message}" for error in found]
    return sorted(lines)


def _path(steps: Iterable[str | int]) -> str:
    """Return `process.args[0]` for the steps `process`, `args`, 0."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.lstrip(".") or "(document)"


def conforms(value: object, schema: Document, root: Document) -> bool:
    """Return whether `value` keeps every keyword of `schema`, part of `root`; KeyError for a keyword not known here."""
    return all(KEYWORDS[keyword](value, expected, schema, root) for keyword, expected in schema.items())


def _is_type(value: object, expected: str) -> bool:
    if isinstance(value, bool):
        return expected == "boolean"
    if isinstance(value, float) and expected == "integer":
        return value.is_integer()
    return isinstance(value, TYPES[expected])


def _type(value: object, expected: str, schema: Document, root: Document) -> bool:
    return _is_type(value, expected)


def _ref(value: object, expected: str, schema: Document, root: Document) -> bool:
    return conforms(value, root["$defs"][expected.removeprefix("#/$defs/")], root)


def _required(value: object, expected: list[str], schema: Document, root: Document) -> bool:
    return not isinstance(value, dict) or all(key in value for key in expected)


def _properties(value: object, expected: Document, schema: Document, root: Document) -> bool:
    if not isinstance(value, dict):
        return True
    return all(conforms(value[key], expected[key], root) for key in expected if key in value)


def _additional(value: object, expected: Document, schema: Document, root: Document) -> bool:
    if not isinstance(value, dict):
        return True
    others = [item for key, item in value.items() if key not in schema.get("properties", {})]
    return all(conforms(item, expected, root) for item in others)


def _items(value: object, expected: Document, schema: Document, root: Document) -> bool:
    return not isinstance(value, list) or all(conforms(item, expected, root) for item in value)


def _min_items(value: object, expected: int, schema: Document, root: Document) -> bool:
    return not isinstance(value, list) or len(value) >= expected


def _min_length(value: object, expected: int, schema: Document, root: Document) -> bool:
    return not isinstance(value, str) or len(value) >= expected


def _pattern(value: object, expected: str, schema: Document, root: Document) -> bool:
    """Return whether a string has a prefix, as all our patterns are: importing re takes as long as this package."""
    return not isinstance(value, str) or value.startswith(expected.removeprefix("^").replace("\\", ""))


def _enum(value: object, expected: list[object], schema: Document, root: Document) -> bool:
    return value in expected


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _minimum(value: object, expected: int, schema: Document, root: Document) -> bool:
    return not _number(value) or value >= expected


def _maximum(value: object, expected: int, schema: Document, root: Document) -> bool:
    return not _number(value) or value <= expected


def _annotation(value: object, expected: object, schema: Document, root: Document) -> bool:
    return True


KEYWORDS: dict[str, Callable[[Json, Json, Document, Document], bool]] = {
    "$schema": _annotation,
    "$defs": _annotation,
    "title": _annotation,
    "description": _annotation,
    "$ref": _ref,
    "type": _type,
    "required": _required,
    "properties": _properties,
    "additionalProperties": _additional,
    "items": _items,
    "minItems": _min_items,
    "minLength": _min_length,
    "pattern": _pattern,
    "enum": _enum,
    "minimum": _minimum,
    "maximum": _maximum,
}
