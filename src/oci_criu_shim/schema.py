"""Checks JSON documents against the schemas in schemas/.

jsonschema finds and words all faults, but importing it costs a tenth of a second, in the way of
every job. So `conforms` decides first, over the few keywords our schemas use, and jsonschema is
asked only about documents that are refused. A unit test holds the two to the same verdicts.
"""

from __future__ import annotations

import os

from oci_criu_shim import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
    "number": (int, float),
}


def load(name: str) -> dict[str, Any]:
    """The schema `name` (`config` or `manifest`)."""
    path = os.path.join(os.path.dirname(__file__), "schemas", f"{name}.json")
    schema: dict[str, Any] = files.read_json(path)
    return schema


def faults(document: Any, name: str) -> list[str]:
    """All that is wrong with `document`, each as `path: what`; empty where it conforms."""
    schema = load(name)
    if conforms(document, schema, schema):
        return []
    import jsonschema

    found = jsonschema.Draft202012Validator(schema).iter_errors(document)
    lines = [f"{_path(error.absolute_path)}: {error.message}" for error in found]
    return sorted(lines)


def _path(steps: Any) -> str:
    """`process.args[0]` from the steps `process`, `args`, 0."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.lstrip(".") or "(document)"


def conforms(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether `value` keeps every keyword of `schema`; KeyError for a keyword not known here."""
    return all(KEYWORDS[keyword](value, expected, schema, root) for keyword, expected in schema.items())


def _is_type(value: Any, expected: str) -> bool:
    if isinstance(value, bool):
        return expected == "boolean"
    if isinstance(value, float) and expected == "integer":
        return value.is_integer()
    return isinstance(value, TYPES[expected])


def _type(value: Any, expected: Any, schema: Any, root: Any) -> bool:
    return _is_type(value, expected)


def _ref(value: Any, expected: str, schema: Any, root: Any) -> bool:
    return conforms(value, root["$defs"][expected.removeprefix("#/$defs/")], root)


def _required(value: Any, expected: list[str], schema: Any, root: Any) -> bool:
    return not isinstance(value, dict) or all(key in value for key in expected)


def _properties(value: Any, expected: dict[str, Any], schema: Any, root: Any) -> bool:
    if not isinstance(value, dict):
        return True
    return all(conforms(value[key], expected[key], root) for key in expected if key in value)


def _additional(value: Any, expected: Any, schema: Any, root: Any) -> bool:
    if not isinstance(value, dict):
        return True
    others = [item for key, item in value.items() if key not in schema.get("properties", {})]
    return all(conforms(item, expected, root) for item in others)


def _items(value: Any, expected: dict[str, Any], schema: Any, root: Any) -> bool:
    return not isinstance(value, list) or all(conforms(item, expected, root) for item in value)


def _min_items(value: Any, expected: int, schema: Any, root: Any) -> bool:
    return not isinstance(value, list) or len(value) >= expected


def _min_length(value: Any, expected: int, schema: Any, root: Any) -> bool:
    return not isinstance(value, str) or len(value) >= expected


def _pattern(value: Any, expected: str, schema: Any, root: Any) -> bool:
    """Our patterns are prefixes: re takes as long to import as all of this package."""
    return not isinstance(value, str) or value.startswith(expected.removeprefix("^").replace("\\", ""))


def _enum(value: Any, expected: list[Any], schema: Any, root: Any) -> bool:
    return value in expected


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _minimum(value: Any, expected: int, schema: Any, root: Any) -> bool:
    return not _number(value) or value >= expected


def _maximum(value: Any, expected: int, schema: Any, root: Any) -> bool:
    return not _number(value) or value <= expected


def _annotation(value: Any, expected: Any, schema: Any, root: Any) -> bool:
    return True


KEYWORDS: dict[str, Callable[[Any, Any, Any, Any], bool]] = {
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
