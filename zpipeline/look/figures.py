"""Numbers for people."""

from __future__ import annotations

_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(number: float | None) -> str:
    """How many there are: 1234567 is ``1,234,567``. What is not known is a dash."""
    return "-" if number is None else f"{number:,.0f}"


def short_count(number: float | None) -> str:
    """The same in five characters: 1234567 is ``1.23M``."""
    if number is None or number < 9999.5:
        return count(number)
    for size, letter in _LARGE:
        if number >= size * 0.9995:
            return f"{_three_digits(number / size)}{letter}"
    raise AssertionError(number)


def rate(per_second: float | None) -> str:
    """How many there are each second, where it may be less than one."""
    if per_second is None or per_second == 0 or per_second >= 9.95:
        return short_count(per_second)
    return f"{per_second:.1f}"


def share(part: float | None) -> str:
    """A part of one, in percent."""
    return "-" if part is None else f"{part:.1%}"


def latency(seconds: float | None) -> str:
    """A time as it is measured: 0.0123 is ``12.3ms``."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{_three_digits(seconds * 1000)}ms"
    return f"{_three_digits(seconds)}s" if seconds < 99.95 else duration(seconds)


def duration(seconds: float) -> str:
    """A time as one thinks of it: its two largest units."""
    whole = int(max(0.0, seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {whole % 60}s" if minutes else f"{whole}s"


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 99.95 else f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"
