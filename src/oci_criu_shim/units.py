"""Parse and format sizes and times as users write and read them."""

from __future__ import annotations

POWERS = "KMGTP"
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_size(text: str) -> int:
    """Return the bytes of `512M`, `20G`, `1.5T` (powers of 1024; a B or iB may follow); ValueError for other text."""
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    power = POWERS.find(number[-1:]) + 1 if number else 0
    try:
        if number[:1].isdecimal():
            return int(float(number[:-1] if power else number) * 1024**power)
    except ValueError:
        pass
    raise ValueError(text)


def parse_time(text: str) -> int:
    """Return the seconds of `90s`, `15m`, `1h30m`, `7d`, `2w`, or of Slurm's `20` (minutes), `20:30`, `1:00:00`, `1-0`,
    `1-12:30`, `1-12:30:00`; ValueError for other text."""
    try:
        return _by_units(text) if text[-1:] in SECONDS else _by_places(text)
    except ValueError:
        raise ValueError(text) from None


def _by_units(text: str) -> int:
    """Return the seconds of numbers that each have a unit, smaller than the one before."""
    total, number, above = 0, "", 2 * SECONDS["w"]
    for letter in text:
        if letter not in SECONDS:
            number += letter
        elif number.isdecimal() and SECONDS[letter] < above:
            total, number, above = total + int(number) * SECONDS[letter], "", SECONDS[letter]
        else:
            raise ValueError(text)
    return total


def _by_places(text: str) -> int:
    """Return the seconds of one of Slurm's times (sbatch(1), --time)."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if len(parts) > 3 or not all(part.isdecimal() for part in (*parts, days if dash else "0")):
        raise ValueError(text)
    numbers = [int(part) for part in parts]
    begin = 0 if dash or len(parts) == 3 else 1  # with hours; else with minutes
    units = (SECONDS["h"], SECONDS["m"], SECONDS["s"])[begin:]
    return int(days or 0) * SECONDS["d"] + sum(number * unit for number, unit in zip(numbers, units, strict=False))


def size(count: int) -> str:
    """Return a text of `count` bytes, as `16.3 MiB`."""
    value, unit = float(count), "B"
    for power in POWERS:
        if value < 1024:
            break
        value, unit = value / 1024, f"{power}iB"
    return f"{value:.1f} {unit}" if unit != "B" else f"{count} B"


def time(seconds: float) -> str:
    """Return a text of `seconds` in its two largest units, as `3d4h`, `2h`, `1m45s` or `40s`."""
    rest = max(int(seconds), 0)
    for unit, smaller in ("dh", "hm", "ms"):
        if rest >= SECONDS[unit]:
            below = rest % SECONDS[unit] // SECONDS[smaller]
            return f"{rest // SECONDS[unit]}{unit}" + (f"{below}{smaller}" if below else "")
    return f"{rest}s"


def short(text: str, length: int = 24) -> str:
    """Return a text that is no longer than `length`."""
    return text if len(text) <= length else text[: length - 1] + "…"
