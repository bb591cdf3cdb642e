"""The templates, and how values are said in them."""

import json
import re
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from optiinfra_db import _words
from optiinfra_db.errors import OptiInfraError

if TYPE_CHECKING:
    from jinja2 import Environment

MISSING = "Pages need jinja2 and vl-convert-python: pip install 'optiinfra-db[html]'"
MAX_TEXT = 20_000
"""How many characters of a payload, an error message or a traceback are shown."""

_MAX_NAME = 200
_TONES = {**_words.STYLES, "timeout": "magenta", "error": "red"}

# What has no shape of its own, but could change that of its surroundings; and what XML forbids.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\uffff]+"
)
_UNSEEN_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@cache
def environment() -> "Environment":
    """Return the environment of the templates: whatever they are given is escaped."""
    try:
        import jinja2  # noqa: PLC0415 -- of an extra
    except ImportError as error:
        raise OptiInfraError(MISSING) from error
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("optiinfra_db.pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters.update(
        as_json=as_json,
        clock=clock,
        duration=_words.duration,
        exact=_words.exact,
        iso=lambda time: time.astimezone(UTC).isoformat(),
        line=line,
        money=_words.money,
        percent=_words.percent,
        plain=plain,
        size=_words.size,
        tone=tone,
    )
    templates.globals.update(MAX_TEXT=MAX_TEXT)
    return templates


def line(text: str, length: int = _MAX_NAME) -> str:
    """Return a text on one line, cut, without what would turn or break its surroundings."""
    text = _UNSEEN.sub(" ", text[: 2 * length]).strip()
    return text if len(text) <= length else f"{text[: length - 1]}…"


def plain(name: str) -> str:
    """Say a name of the platform's vocabulary in plain words."""
    return name.replace("_", " ")


def tone(status: str) -> str:
    """Return the name of the colour of a status."""
    return _TONES.get(status, "dim")


def clock(time: datetime) -> str:
    """Say when, in UTC, to the minute."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def as_json(value: Any) -> str:  # noqa: ANN401 -- any JSON
    """Return JSON to read: what cannot be seen is escaped."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    except RecursionError:
        return "It is nested too deeply to be shown."
    return _UNSEEN_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
