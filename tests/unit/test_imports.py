"""Which module may import which: the privilege boundary, the single importers, the hot path."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import oci_criu_shim

PACKAGE = Path(oci_criu_shim.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
HOT = ("__main__", "cli", "commands", "lifecycle", "runtime", "container", "process", "bundle")
SLOW = {"argparse", "ctypes", "dataclasses", "enum", "json", "jsonschema", "logging"} | {
    *("pycriu", "re", "signal", "socket", "subprocess", "tomllib", "typing"),
}
# What the privileged side may take from the rest: leaves, and CRIU.
LEAVES = {"clocks", "config", "criu", "errors", "groups", "linux", "mounts", "privileged", "wire"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def statements(tree: ast.AST, deep: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that are executed: not below TYPE_CHECKING; not in functions unless deep."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        elif deep or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from statements(node, deep)


def imported(path: Path, deep: bool = True) -> set[str]:
    """Dotted names of modules, and of what is taken from them."""
    names = set()
    for node in statements(ast.parse(path.read_text()), deep):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def ours(names: set[str]) -> set[str]:
    """The first part, below the package, of those that are the package's own."""
    return {name.split(".")[1] for name in names if name.startswith("oci_criu_shim.")}


def named(path: Path, package: str) -> bool:
    """Whether a string of a module, other than a docstring, names a package: importlib takes those."""
    tree = ast.parse(path.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    words = [word.value for call in calls for word in call.args if isinstance(word, ast.Constant)]
    return any(isinstance(word, str) and word.split(".")[0] == package for word in words)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_privileged_imports_privileged(path: Path) -> None:
    if path.parent.name != "privileged":
        assert "privileged" not in ours(imported(path))


@pytest.mark.parametrize("path", sorted((PACKAGE / "privileged").glob("*.py")), ids=name_of)
def test_privileged_imports_leaves_only(path: Path) -> None:
    assert ours(imported(path)) <= LEAVES


@pytest.mark.parametrize("package", ["pycriu", "pyslurm", "pyroute2"])
def test_single_importers(package: str) -> None:
    allowed = {"pycriu": {"criu"}, "pyslurm": {"slurm.library"}, "pyroute2": {"netns"}}[package]
    importers = {
        name_of(path)
        for path in MODULES
        if package in {name.split(".")[0] for name in imported(path)} or named(path, package)
    }
    assert importers <= allowed


def path_of(name: str) -> Path:
    """Of a module, or of a package's own."""
    path = PACKAGE / name.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def reached(name: str, seen: set[str]) -> None:
    """The package's modules that importing `name` imports."""
    path = path_of(name)
    if name in seen or not path.exists():
        return
    seen.add(name)
    for other in imported(path, deep=False):
        if other.startswith("oci_criu_shim."):
            reached(other.removeprefix("oci_criu_shim."), seen)


@pytest.mark.parametrize("name", HOT)
def test_hot_path_imports_nothing_slow(name: str) -> None:
    modules: set[str] = set()
    reached(name, modules)
    for module in modules:
        slow = {word.split(".")[0] for word in imported(path_of(module), deep=False)} & SLOW
        assert not slow, f"{name} imports {module}, which imports {slow}"


@pytest.mark.parametrize("name", [*HOT, "supervised", "supervise"])
def test_only_what_asked_for_checkpoints_has_a_history(name: str) -> None:
    modules: set[str] = set()
    reached(name, modules)
    assert not {module.partition(".")[0] for module in modules} & {"history", "jobs"}
