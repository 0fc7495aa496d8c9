"""A root with all that it takes to make packages of this checkout, which nodes need not have."""

from __future__ import annotations

import re

from .rootfs import Recipe
from .settings import REPOSITORY

FIELD = re.compile(r"^Build-Depends:((?:.*\n )*.*)\n", re.MULTILINE)
PACKAGE = re.compile(r"[\w.+-]+")


def needed() -> tuple[str, ...]:
    """Return what debian/control wants for a build; the first of each alternative."""
    [field] = FIELD.findall((REPOSITORY / "debian/control").read_text())
    return tuple(found[0] for entry in field.split(",") if (found := PACKAGE.search(entry)))


PACKAGING = Recipe(
    name="packaging",
    variant="minbase",
    packages=("build-essential", *needed(), "lintian", "rpm", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"),
)
