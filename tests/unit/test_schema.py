"""conforms() and jsonschema give the same verdicts, and a refusal names every fault."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any, cast

import jsonschema
import pytest

from oci_criu_shim import schema
from oci_criu_shim.checkpoints.manifest import Manifest

WRONG: tuple[Any, ...] = (None, True, 7, -1, 1.0, 2.5, 1 << 70, "", "relative", [], [1], [[]], {}, {"a": 1})


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document."""
    yield path
    if isinstance(document, dict):
        for key in document:
            yield from places(document[key], (*path, key))
    elif isinstance(document, list):
        for index, item in enumerate(document):
            yield from places(item, (*path, index))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    document = copy.deepcopy(document)
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return document


def without(document: Any, path: tuple[Any, ...]) -> Any:
    document = copy.deepcopy(document)
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    return document


def corpus(document: Any) -> Iterator[Any]:
    """A document, and it with each of its values left out or replaced by others."""
    yield document
    for path in places(document):
        if path:
            yield without(document, path)
        for value in WRONG:
            yield changed(document, path, value)


def full_config() -> dict[str, Any]:
    hook = {"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 3}
    mapping = {"containerID": 0, "hostID": 1000, "size": 1}
    return {
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "name",
        "process": {
            "terminal": False,
            "consoleSize": {"height": 24, "width": 80},
            "cwd": "/",
            "env": ["A=b"],
            "args": ["sh"],
            "user": {"uid": 0, "gid": 0, "umask": 18, "additionalGids": [5]},
            "capabilities": {"bounding": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": (1 << 64) - 1}],
            "noNewPrivileges": True,
            "oomScoreAdj": -1000,
        },
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]}],
        "hooks": {"prestart": [hook]},
        "annotations": {"key": "value"},
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}],
            "uidMappings": [mapping],
            "devices": [{"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 438, "uid": 0}],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}],
            },
            "rootfsPropagation": "rslave",
            "sysctl": {"net.ipv4.ip_forward": "1"},
            "maskedPaths": ["/proc/kcore"],
        },
    }


def full_manifest(**changes: Any) -> Manifest:
    """Return a manifest with all that ours must have, and `changes`."""
    whole: Manifest = {
        "version": 1,
        "container": "c",
        "created": "2026-01-01T00:00:00Z",
        "node": "n1",
        "kernel": "6.18",
        "criu": "4.2.1",
        "needs": {"machine": "x86_64", "cpu": ["sse2"], "cgroup": 2, "image": "sha256:0"},
        "reason": "preempt",
        "bytes": 3,
        "files": {"checkpoint/a.img": 3},
        "sha256": {"checkpoint/a.img": ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]},
        "checksum": "",
        "streams": ["pipe:[1]", "pipe:[2]", "pipe:[3]"],
        "input": "YWJj",
        "clock": {"monotonic": 1, "boottime": 2},
        "external": [{"key": "/dev/null", "kind": "device", "root": "/null", "options": ["rw"]}],
        "network": "own",
        "uid_map": [[0, 1000, 1]],
        "gid_map": [[0, 1000, 1]],
        "frozen_seconds": 0.5,
    }
    return cast(Manifest, {**whole, **changes})


@pytest.mark.parametrize(("name", "document"), [("config", full_config()), ("manifest", full_manifest())])
def test_same_verdicts_as_jsonschema(name: str, document: dict[str, Any]) -> None:
    rules = schema.load(name)
    reference = jsonschema.Draft202012Validator(rules)
    verdicts = set()
    for candidate in corpus(document):
        expected = reference.is_valid(candidate)
        assert schema.conforms(candidate, rules, rules) == expected, json.dumps(candidate)
        verdicts.add(expected)
    assert verdicts == {True, False}


@pytest.mark.parametrize("name", ["config", "manifest"])
def test_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema.load(name))


def test_unknown_keyword_is_an_error() -> None:
    with pytest.raises(KeyError, match="oneOf"):
        schema.conforms({}, {"oneOf": []}, {})


def test_full_documents_conform() -> None:
    assert schema.faults(full_config(), "config") == []
    assert schema.faults(full_manifest(), "manifest") == []


def test_faults_lists_all_with_their_paths() -> None:
    config = full_config()
    del config["ociVersion"]
    config["process"]["args"][0] = 7
    config["process"]["cwd"] = "relative"
    config["linux"]["namespaces"][1]["type"] = "nets"
    faults = schema.faults(config, "config")
    assert [fault.partition(": ")[0] for fault in faults] == [
        "(document)",
        "linux.namespaces[1].type",
        "process.args[0]",
        "process.cwd",
    ]
    assert "'ociVersion' is a required property" in faults[0]
