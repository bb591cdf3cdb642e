"""How times, durations, sizes and money are said, in the terminal and on pages."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from rich.filesize import decimal

STYLES = {
    "completed": "green",
    "approved": "green",
    "healthy": "green",
    "valid": "green",
    "running": "cyan",
    "executing": "cyan",
    "starting": "cyan",
    "pending": "dim",
    "queued": "dim",
    "skipped": "dim",
    "stopped": "dim",
    "expired": "dim",
    "retrying": "yellow",
    "cancelled": "yellow",
    "rejected": "yellow",
    "revoked": "yellow",
    "degraded": "yellow",
    "rolled_back": "magenta",
    "failed": "red",
    "timeout": "red",
}
"""The colour of each status, as rich and textual name it; what a status means is always written."""

_ID_DIGITS = 13  # with the dash: its time, to the millisecond


def duration(value: timedelta | float | None) -> str:
    """Say how long something took, in two units at most; seconds where it is a number."""
    if value is None:
        return ""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:  # noqa: PLR2004 -- which would be 60.0s
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest}s"


def ago(time: datetime | None, now: datetime | None = None) -> str:
    """Say how long ago a time was, or in how long it will be."""
    if time is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - time).total_seconds()
    if abs(seconds) < 1:
        return "now"
    words = duration(float(round(abs(seconds)))).replace(".0s", "s")
    return f"{words} ago" if seconds > 0 else f"in {words}"


def exact(time: datetime | None) -> str:
    """Say when, in UTC, to the second."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ") if time else ""


def size(size_bytes: int) -> str:
    """Say how large something is."""
    return decimal(size_bytes)


def money(usd: Decimal | float | None) -> str:
    """Say an amount in USD."""
    return "" if usd is None else f"${usd:,.2f}"


def percent(share: float | None) -> str:
    """Say a share of 1."""
    return "" if share is None else f"{share:.1%}"


def one_line(text: str) -> str:
    """Make text fit for one line of a terminal: what is not printable is shown as its escape."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def lines(text: str) -> str:
    """Make text fit for a terminal, with its line breaks."""
    return "\n".join(map(one_line, text.split("\n")))


def short_ids(ids: Collection[UUID]) -> dict[UUID, str]:
    """Return the beginning of each id that tells it from the others."""
    length = _ID_DIGITS
    while len({str(one)[:length] for one in ids}) < len(set(ids)):
        length += 1
    return {one: str(one)[:length] for one in ids}
