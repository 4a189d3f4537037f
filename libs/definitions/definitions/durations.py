"""Windows and half-lives as people write them: `90s`, `5m`, `24h`, `30d`, and the window `all`."""

import re

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US

ALL = "all"  # the window without a beginning
_UNITS = {"s": SECOND_US, "m": MINUTE_US, "h": HOUR_US, "d": DAY_US}
_FORM = re.compile(r"([1-9][0-9]{0,6})([smhd])")


def duration_us(text: object) -> int:
    """Microseconds of a duration such as `24h`; ValueError with the remedy if it is none."""
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{text!r} is no duration; write a whole number and s, m, h or d, such as 24h")
    return int(found[1]) * _UNITS[found[2]]


def duration_text(us: int) -> str:
    """The other way: what `duration_us` reads as that many microseconds, in the largest unit that fits."""
    unit, size = max(((unit, size) for unit, size in _UNITS.items() if us % size == 0), key=lambda each: each[1])
    return f"{us // size}{unit}"


def hop_us(window_us: int) -> int:
    """Tile length of a window: 5 min below 12 h, 1 h below 12 d, else 1 d."""
    if window_us < 12 * HOUR_US:
        return 5 * MINUTE_US
    return HOUR_US if window_us < 12 * DAY_US else DAY_US


def check_window(text: object) -> str:
    """The window itself; ValueError if it is neither `all` nor a multiple of its hop."""
    if text == ALL:
        return ALL
    window_us = duration_us(text)
    hop = hop_us(window_us)
    if window_us % hop:
        raise ValueError(f"window {text!r} is no multiple of its tile of {hop // SECOND_US} s; choose one that is")
    return str(text)
