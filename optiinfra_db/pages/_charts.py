"""The charts, as Vega-Lite, drawn to SVG.

Colours are those of the style sheet, by name, so that one drawing does for light and dark. A chart
is drawn twice, for wide and narrow columns: text that shrinks with its drawing cannot be read.
What comes from the database is data to the charts, never a part of how they are drawn.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from optiinfra_db import _words
from optiinfra_db.errors import OptiInfraError
from optiinfra_db.pages._templates import MISSING, line, plain, tone
from optiinfra_db.shapes import Period, Span, Step, TypeStats

WIDE, NARROW = 680, 340
MAX_STEPS = 200
"""How many steps a time line shows."""

Spec = dict[str, Any]

_FEW_MONTHS = 3
_MANY_PERIODS = 100
_WEEK = 7
_FEW_STEPS = 60
_MAX_LABEL = 60
_MOST_FOR_NAMES = 0.38  # of the width
_WIDEST = 8.2  # pixels a letter
_LOGARITHMIC = 30  # from this ratio of the largest to the smallest on
_SHORTEST = 0.004  # of the width, so that it is seen
_ROOM_FOR_A_NUMBER = 13  # pixels
_UNITS = [
    (1, "milliseconds", 0.001),
    (120, "seconds", 1),
    (7200, "minutes", 60),
    (172_800, "hours", 3600),
    (float("inf"), "days", 86_400),
]
ENDS = {
    "completed": "completed",
    "cancelled": "cancelled",
    "timed_out": "timeout",
    "failed": "failed",
}
"""What counts the runs of each status that is an end, and the status; from the bottom of a bar."""
_SPAN_STATES = ["waiting", "running", "completed", "retrying", "failed", "skipped"]
_CONFIG: Spec = {
    "aria": False,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "domain": False,
        "ticks": False,
        "grid": False,
        "gridColor": "var(--line)",
        "labelColor": "var(--fg)",
        "labelFontSize": 13,
        "labelPadding": 6,
        "titleColor": "var(--muted)",
        "titleFontSize": 13,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    "legend": {
        "orient": "top",
        "title": None,
        "labelColor": "var(--fg)",
        "labelFontSize": 13,
        "symbolStrokeWidth": 0,
        "offset": 10,
        "rowPadding": 4,
        "columnPadding": 28,
    },
    "text": {"fontSize": 13, "color": "var(--fg)"},
}


class Chart(NamedTuple):
    """A chart, and what it says to whom cannot see it."""

    label: str
    wide: str
    narrow: str


class Series(NamedTuple):
    """A part of each bar of a chart."""

    name: str
    tone: str
    values: Sequence[float]


def time_line(steps: Sequence[Step], began_at: datetime, until: datetime) -> Chart:
    """Draw the waiting and the attempts of each step as bars over the time of the run."""
    shown = steps[:MAX_STEPS]
    whole = max((until - began_at).total_seconds(), 0.001)
    unit, per_unit = _unit(whole)
    labels = distinct(numbered([step.step_name for step in shown], [s.step_order for s in shown]))
    bars = [
        _bar(label, span, began_at, until, whole, is_retried=len(step.attempts) > 1)
        for label, step in zip(labels, shown, strict=True)
        for span in step.spans
    ]
    for bar in bars:
        bar.update({name: bar[name] / per_unit for name in ("from", "to")})
    ends = [
        {
            "label": label,
            "to": max(bar["to"] for bar in bars if bar["label"] == label),
            "said": _words.duration(_ran(step, until)),
        }
        for label, step in zip(labels, shown, strict=True)
        if step.attempts
    ]
    states = [state for state in _SPAN_STATES if any(bar["state"] == state for bar in bars)]

    def spec(width: int) -> Spec:
        y = _categories(labels, width)
        room = _ROOM_FOR_A_NUMBER / (width * (1 - _MOST_FOR_NAMES) * _bars_share(width))
        x: Spec = {
            "field": "from",
            "type": "quantitative",
            "title": f"{unit} since the run started",
            "scale": {"domain": [0, whole / per_unit / _bars_share(width)], "nice": False},
            "axis": {"grid": True, "tickCount": width // 90},
        }
        color: Spec = {
            "field": "state",
            "type": "nominal",
            "scale": {"domain": states, "range": [_color(state) for state in states]},
            "legend": {"columns": _columns_of_legend(states, width), "symbolType": "square"},
        }
        bar: Spec = {
            "y": y,
            "x": x,
            "x2": {"field": "to"},
            "color": color,
            "fillOpacity": {"field": "opacity", "type": "quantitative", "scale": None},
        }
        return {
            "height": {"step": 26 if len(shown) <= _FEW_STEPS else 18},
            "layer": [
                {
                    "data": {"values": [bar for bar in bars if bar["state"] == "waiting"]},
                    "mark": {"type": "bar", "height": {"band": 0.2}},
                    "encoding": bar,
                },
                {
                    "data": {"values": [bar for bar in bars if bar["state"] != "waiting"]},
                    "mark": {"type": "bar", "height": {"band": 0.72}, "cornerRadius": 2},
                    "encoding": bar,
                },
                {
                    "data": {
                        "values": [bar for bar in bars if bar["number"] and bar["share"] > room]
                    },
                    "mark": {
                        "type": "text",
                        "align": "left",
                        "dx": 4,
                        "fontSize": 11,
                        "fontWeight": "bold",
                        "color": "var(--on-bar)",
                    },
                    "encoding": {"y": y, "x": x, "text": {"field": "number", "type": "nominal"}},
                },
                {
                    "data": {"values": ends},
                    "mark": {"type": "text", "align": "left", "dx": 6},
                    "encoding": {
                        "y": y,
                        "x": {**x, "field": "to"},
                        "text": {"field": "said", "type": "nominal"},
                    },
                },
            ],
        }

    return _draw("Time line of the steps; the numbers are in the table of steps.", spec)


def runs_over_time(periods: Sequence[Period], length: timedelta) -> Chart:
    """Draw how many runs ended in each period, stacked by what they ended in.

    More days than can be told apart are added up to weeks.
    """
    together = _WEEK if len(periods) > _MANY_PERIODS else 1
    groups = [periods[place : place + together] for place in range(0, len(periods), together)]
    length *= together
    bars: list[Spec] = []
    for group in groups:
        low, start = 0, group[0].started_at
        for name, status in ENDS.items():
            if runs := sum(getattr(period, name) for period in group):
                bars.append(
                    {
                        "from": _milliseconds(start),
                        "to": _milliseconds(start + length),
                        "low": low,
                        "high": low + runs,
                        "status": status,
                    }
                )
                low += runs
    statuses = [name for name in ENDS.values() if any(bar["status"] == name for bar in bars)]
    unit = "week" if together > 1 else "day" if length.days else "hour"
    highest = max(bar["high"] for bar in bars)
    begin, end = groups[0][0].started_at, groups[-1][0].started_at + length
    time_format = _time_format(end - begin)

    def spec(width: int) -> Spec:
        return {
            "height": 220,
            "data": {"values": bars},
            # The line around each bar parts it from its neighbours, where there is room for it.
            "mark": {
                "type": "bar",
                "stroke": "var(--bg)",
                "strokeWidth": min(1.0, width / len(groups) / 8),
            },
            "encoding": {
                "x": {
                    "field": "from",
                    "type": "temporal",
                    "title": None,
                    "scale": {"type": "utc", "domain": [_milliseconds(begin), _milliseconds(end)]},
                    "axis": {
                        "format": time_format,
                        "labelOverlap": True,
                        "labelFlush": True,
                        "tickCount": width // (140 if ":" in time_format else 90),
                    },
                },
                "x2": {"field": "to"},
                "y": {
                    "field": "low",
                    "type": "quantitative",
                    "title": f"runs ended, by {unit}",
                    "axis": {"grid": True, "format": ",d", "tickCount": min(highest, 5)},
                },
                "y2": {"field": "high"},
                "color": {
                    "field": "status",
                    "type": "nominal",
                    "scale": {"domain": statuses, "range": [_color(name) for name in statuses]},
                    "legend": {
                        "columns": _columns_of_legend(statuses, width),
                        "symbolType": "square",
                    },
                },
            },
        }

    return _draw("Runs that ended over time, by status; the table beside has the numbers.", spec)


def durations(types: Sequence[TypeStats]) -> Chart:
    """Draw how long runs of each type take: the median, and what 95 and 99 in 100 stay below."""
    names = ["p50", "p95", "p99"]
    rows = {
        plain(stats.workflow_type): [
            max(value, 0.001)
            for value in (getattr(stats, f"duration_{name}_seconds") for name in names)
            if value is not None
        ]
        for stats in types
    }
    values = [value for row in rows.values() for value in row]
    unit, per_unit = _unit(max(values))
    is_logarithmic = max(values) / min(values) > _LOGARITHMIC
    points = [
        {"label": label, "name": name, "at": value / per_unit}
        for label, row in rows.items()
        for name, value in zip(names, row, strict=bool(row))
    ]
    lines = [
        {"label": label, "at": min(row) / per_unit, "to": max(row) / per_unit}
        for label, row in rows.items()
        if row
    ]

    def spec(width: int) -> Spec:
        y = _categories(list(rows), width)
        x: Spec = {
            "field": "at",
            "type": "quantitative",
            "title": f"{unit}, on a logarithmic scale" if is_logarithmic else unit,
            "scale": {"type": "log"} if is_logarithmic else {"zero": True},
            "axis": {
                "grid": not is_logarithmic,
                "labelOverlap": True,
                "tickCount": width // 100,
                "format": "~r",
            },
        }
        return {
            "height": {"step": 30},
            "layer": [
                {
                    "data": {"values": lines},
                    "mark": {"type": "rule", "color": "var(--wait)", "strokeWidth": 2},
                    "encoding": {"y": y, "x": x, "x2": {"field": "to"}},
                },
                {
                    "data": {"values": points},
                    "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                    "encoding": {
                        "y": y,
                        "x": x,
                        "color": {"value": "var(--cyan)"},
                        "shape": {
                            "field": "name",
                            "type": "nominal",
                            "scale": {
                                "domain": names,
                                "range": ["circle", "square", "triangle-right"],
                            },
                            "legend": {"symbolFillColor": "var(--cyan)"},
                        },
                    },
                },
            ],
        }

    return _draw("How long runs take, by type; the table beside has the numbers.", spec)


def bars(
    label: str,
    names: Sequence[str],
    series: Sequence[Series],
    *,
    said: Sequence[str],
) -> Chart:
    """Draw a bar a name, of one part a series, and at its end what is said of it."""
    labels = distinct(names)
    totals = [sum(values) for values in zip(*(one.values for one in series), strict=True)]
    whole = max(*totals, 0.001)
    parts: list[Spec] = []
    for place, name in enumerate(labels):
        low = 0.0
        for one in series:
            if value := one.values[place]:
                parts.append({"label": name, "from": low, "to": low + value, "series": one.name})
                low += value
    ends = [
        {"label": name, "from": total, "said": text}
        for name, total, text in zip(labels, totals, said, strict=True)
    ]

    def spec(width: int) -> Spec:
        y = _categories(labels, width)
        x: Spec = {
            "field": "from",
            "type": "quantitative",
            "axis": None,
            "scale": {"domain": [0, whole / _bars_share(width)], "nice": False},
        }
        names = [one.name for one in series]
        return {
            "height": {"step": 28},
            "layer": [
                {
                    "data": {"values": parts},
                    "mark": {"type": "bar", "height": {"band": 0.62}},
                    "encoding": {
                        "y": y,
                        "x": x,
                        "x2": {"field": "to"},
                        "color": {
                            "field": "series",
                            "type": "nominal",
                            "scale": {
                                "domain": names,
                                "range": [f"var(--{one.tone})" for one in series],
                            },
                            "legend": {
                                "columns": _columns_of_legend(names, width),
                                "symbolType": "square",
                            },
                        },
                    },
                },
                {
                    "data": {"values": ends},
                    "mark": {"type": "text", "align": "left", "dx": 6},
                    "encoding": {"y": y, "x": x, "text": {"field": "said", "type": "nominal"}},
                },
            ],
        }

    return _draw(label, spec)


def money_by_month(months: Sequence[str], series: Sequence[Series]) -> Chart:
    """Draw amounts of money of each month, side by side."""
    values = [
        {"month": month, "series": one.name, "usd": value}
        for one in series
        for month, value in zip(months, one.values, strict=True)
    ]
    names = [one.name for one in series]

    def spec(width: int) -> Spec:
        return {
            "height": 220,
            "data": {"values": values},
            "mark": {"type": "bar", "width": {"band": 1}},
            "encoding": {
                "x": {
                    "field": "month",
                    "type": "nominal",
                    "title": None,
                    "sort": None,
                    "scale": {
                        "paddingInner": 0.3,
                        "paddingOuter": 1 if len(months) <= _FEW_MONTHS else 0.2,
                    },
                    "axis": {
                        "labelAngle": 0,
                        "labelOverlap": True,
                        "labelExpr": "split(datum.label, ' ')",
                    },
                },
                "xOffset": {"field": "series", "scale": {"domain": names}},
                "y": {
                    "field": "usd",
                    "type": "quantitative",
                    "title": "USD a month",
                    "axis": {"grid": True, "format": "$~s", "tickCount": 5},
                },
                "color": {
                    "field": "series",
                    "type": "nominal",
                    "scale": {"domain": names, "range": [f"var(--{one.tone})" for one in series]},
                    "legend": {"symbolType": "square"},
                },
            },
        }

    return _draw("Savings by month; the table beside has the numbers.", spec)


def _draw(label: str, spec: Callable[[int], Spec]) -> Chart:
    try:
        import vl_convert  # noqa: PLC0415 -- of an extra
        from markupsafe import Markup  # noqa: PLC0415 -- of an extra
    except ImportError as error:
        raise OptiInfraError(MISSING) from error

    def svg(width: int) -> str:
        whole = {
            **spec(width),
            "width": width,
            "autosize": {"type": "fit-x", "contains": "padding"},
            "background": None,
            "padding": {"left": 2, "top": 2, "right": 12, "bottom": 2},
            "config": _CONFIG,
        }
        # Vega draws what it is told: all that a drawing holds is escaped.
        return Markup(vl_convert.vegalite_to_svg(whole, allowed_base_urls=[]))  # noqa: S704 -- see above

    return Chart(label, svg(WIDE), svg(NARROW))


def _bar(
    label: str, span: Span, began_at: datetime, until: datetime, whole: float, *, is_retried: bool
) -> Spec:
    start = (span.started_at - began_at).total_seconds()
    length = ((span.ended_at or until) - span.started_at).total_seconds()
    start = min(max(start, 0), whole * (1 - _SHORTEST))
    length = min(max(length, whole * _SHORTEST), whole - start)
    state = "waiting" if span.kind == "waiting" else (span.status or "running")
    has_number = is_retried and span.kind == "running"
    return {
        "label": label,
        "from": start,
        "to": start + length,
        "state": state,
        "opacity": 0.8 if span.ended_at is None else 1,
        "number": str(span.attempt) if has_number else "",
        "share": length / whole,
    }


def _ran(step: Step, until: datetime) -> timedelta:
    """Say how long the latest attempt ran."""
    latest = step.attempts[-1]
    return max((latest.ended_at or until) - latest.started_at, timedelta())


def numbered(names: Iterable[str], numbers: Iterable[int]) -> list[str]:
    """Put a number before each name."""
    return [
        f"{number}  {line(name, _MAX_LABEL)}" for number, name in zip(numbers, names, strict=True)
    ]


def distinct(names: Iterable[str]) -> list[str]:
    """Tell names apart that are the same: a bar has a name of its own."""
    seen: Counter[str] = Counter()
    labels = []
    for name in names:
        label = line(name, _MAX_LABEL)
        seen[label] += 1
        labels.append(f"{label} ({seen[label]})" if seen[label] > 1 else label)
    return labels


def _categories(labels: Sequence[str], width: int) -> Spec:
    """Give names the room that they need in the widest of the fonts that they may be shown in."""
    room = min(max(map(len, labels)) * _WIDEST + 10, width * _MOST_FOR_NAMES)
    return {
        "field": "label",
        "type": "nominal",
        "title": None,
        "sort": None,
        "scale": {"domain": list(labels)},
        "axis": {"labelLimit": room * 0.8, "minExtent": room, "maxExtent": room},
    }


def _bars_share(width: int) -> float:
    """Say how much of the room is for bars, so that what is said at their ends has some too."""
    return 1 - 62 / (width * (1 - _MOST_FOR_NAMES))


def _columns_of_legend(names: Sequence[str], width: int) -> int:
    return len(names) if width == WIDE else min(len(names), 2)


def _unit(seconds: float) -> tuple[str, float]:
    return next((unit, length) for below, unit, length in _UNITS if seconds < below)


def _color(status: str) -> str:
    return "var(--wait)" if status == "waiting" else f"var(--{tone(status)})"


def _milliseconds(time: datetime) -> int:
    return int(time.astimezone(UTC).timestamp() * 1000)


def _time_format(whole: timedelta) -> str:
    if whole <= timedelta(days=1):
        return "%H:%M"
    if whole <= timedelta(days=3):
        return "%d %b %H:%M"
    return "%d %b" if whole < timedelta(days=300) else "%b %Y"
