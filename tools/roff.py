"""Turn text into roff, as man(7) pages are written in."""

from __future__ import annotations

import re

# These characters would be typeset as others, or start an escape.
SPECIAL = {"\\": "\\e", "-": "\\-", "~": "\\(ti", "^": "\\(ha", '"': "\\(dq", "'": "\\(aq"}


def roff(text: str) -> str:
    """Return text in which no character means anything to roff."""
    return "".join(SPECIAL.get(character, character) for character in text)


def prose(text: str) -> str:
    """Return text as roff, a sentence a line, with what stands in `backquotes` in bold."""
    words = re.sub(r"`([^`]+)`", r"\\fB\1\\fP", roff(" ".join(text.split())))
    return re.sub(r"(?<=[.:;]) (?=[A-Z~0-9])", "\n", words)
