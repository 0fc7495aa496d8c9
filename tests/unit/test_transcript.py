"""docs/first-quarter.md has the commands that `make transcript` types, which are README's."""

from __future__ import annotations

from tests import transcript


def test_the_page_is_of_these_commands() -> None:
    typed = [command for scene in transcript.scenes() for command in scene.commands]
    assert transcript.commands(transcript.PAGE) == typed, "run `make transcript`"


def test_numbers_do_not_make_another_page() -> None:
    first = "$ job\nstep 1\nstep 2\n2026-01-01T00:00:00Z  7.5 s\n"
    again = "$ job\nstep 1\n2027-12-31T23:59:59Z 17.25 s\n"
    assert transcript.shape(first) == transcript.shape(again)
    assert transcript.shape(first) != transcript.shape(again + "error\n")
