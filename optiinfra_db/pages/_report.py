"""What the report says."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import NamedTuple

from optiinfra_db import _words
from optiinfra_db.generated.models import WorkflowStatus
from optiinfra_db.pages import _charts
from optiinfra_db.pages._charts import Chart, Series
from optiinfra_db.pages._templates import clock, line, plain, tone
from optiinfra_db.shapes import AgentLine, AgentStats, Report, Saving, TypeStats

_OPEN = (WorkflowStatus.PENDING, WorkflowStatus.RUNNING)
_STATUSES = {WorkflowStatus(status): name for name, status in _charts.ENDS.items()}
_MAX_AGENTS = 30
_MAX_SAVINGS = 300


class Figure(NamedTuple):
    """A number that matters, and what it is of."""

    name: str
    value: str
    note: str


class Share(NamedTuple):
    """How many runs ended in a status."""

    status: str
    runs: int
    share: float | None


class Month(NamedTuple):
    """What was to be saved of what was proposed in a month, and what is."""

    month: str
    recommendations: int
    predicted: Decimal
    approved: Decimal
    realised: Decimal


class Section(NamedTuple):
    """A part of the report: a sentence, and a chart where there is something to draw."""

    sentence: str
    chart: Chart | None


def context(report: Report) -> dict[str, object]:
    """Return what the template says."""
    shares, months = _shares(report), _months(report.savings)
    runs = [row.latest_workflow_execution_id for row in report.failing_steps]
    runs += [row.workflow_execution_id for row in report.slowest_steps]
    return {
        "report": report,
        "whose": line(report.customer) if report.customer else "All customers",
        "period": "hour" if report.period_seconds == 3600 else "day",  # noqa: PLR2004 -- seconds
        "figures": _figures(report, months),
        "shares": shares,
        "months": months,
        "busiest_agents": _busiest(report),
        "most_ended": _most_ended(report),
        "max_savings": _MAX_SAVINGS,
        "max_agents": _MAX_AGENTS,
        "short_ids": _words.short_ids(set(runs)),
        "over_time": _over_time(report),
        "by_type": _by_type(report),
        "durations": _durations(report),
        "failing": _failing(report),
        "slowest": _slowest(report),
        "by_agent": _by_agent(report),
        "load": _load(report),
        "savings": _savings(months),
    }


def _figures(report: Report, months: Sequence[Month]) -> list[Figure]:
    ended = sum(period.ended for period in report.periods)
    failed = sum(period.failed for period in report.periods)
    timed_out = sum(period.timed_out for period in report.periods)
    still_open = sum(count.runs for count in report.counts if count.status in _OPEN)
    realised = sum((month.realised for month in months), Decimal())
    predicted = sum((month.predicted for month in months), Decimal())
    figures = [
        Figure("Runs ended", f"{ended:,}", f"{still_open:,} created in this time still open"),
        Figure(
            "Failed or timed out",
            _words.percent((failed + timed_out) / ended) if ended else "none",
            f"{failed:,} failed, {timed_out:,} timed out" if ended else "No run ended",
        ),
    ]
    if timed := [stats for stats in report.types if stats.duration_p50_seconds is not None]:
        busiest = max(timed, key=lambda stats: stats.ended)
        figures.append(
            Figure(
                "Median duration",
                _words.duration(busiest.duration_p50_seconds),
                f"of {plain(busiest.workflow_type)}, the most frequent",
            )
        )
    else:
        figures.append(Figure("Median duration", "none", "No run ended"))
    figures.append(
        Figure(
            "Savings realised",
            _dollars(realised),
            f"a month, of {_dollars(predicted)} predicted",
        )
    )
    return figures


def _shares(report: Report) -> list[Share]:
    ended = sum(period.ended for period in report.periods)
    totals = {
        status: sum(getattr(period, name) for period in report.periods)
        for status, name in _STATUSES.items()
    }
    shares = [Share(status, runs, runs / ended) for status, runs in totals.items() if ended]
    for status in _OPEN:
        runs = sum(count.runs for count in report.counts if count.status is status)
        if runs:
            shares.append(Share(status, runs, None))
    return shares


def _over_time(report: Report) -> Section:
    busiest = max(report.periods, key=lambda period: period.ended, default=None)
    if busiest is None or not busiest.ended:
        return Section("No run ended in this time.", None)
    ended = sum(period.ended for period in report.periods)
    is_hourly = report.period_seconds == 3600  # noqa: PLR2004 -- seconds
    when = clock(busiest.started_at) if is_hourly else f"{busiest.started_at:%Y-%m-%d}"
    return Section(
        f"{_runs(ended)} ended. The busiest {'hour' if is_hourly else 'day'} was {when}, "
        f"with {busiest.ended:,}.",
        _charts.runs_over_time(report.periods, timedelta(seconds=report.period_seconds)),
    )


def _by_type(report: Report) -> Section:
    types = report.types
    if not types:
        return Section("No run ended in this time.", None)
    worst = max(types, key=lambda stats: stats.failure_rate)
    ended = sum(stats.ended for stats in types)
    busiest = max(types, key=lambda stats: stats.ended)
    sentence = (
        f"{plain(busiest.workflow_type).capitalize()} had the most runs: "
        f"{busiest.ended:,} of {ended:,}. "
    )
    sentence += (
        f"{plain(worst.workflow_type).capitalize()} failed or timed out most often: "
        f"{_words.percent(worst.failure_rate)} of its runs."
        if worst.failure_rate
        else "None failed."
    )
    return Section(
        sentence,
        _ended("type", types, [plain(stats.workflow_type) for stats in types]),
    )


def _by_agent(report: Report) -> Section:
    agents = _most_ended(report)
    if not agents:
        return Section("No run ended in this time.", None)
    busiest = max(agents, key=lambda stats: stats.busy_seconds)
    return Section(
        f"{line(busiest.agent, 60)} worked longest: {_words.duration(busiest.busy_seconds)}, "
        "all of its runs added up.",
        _ended("agent", agents[:_MAX_AGENTS], [stats.agent for stats in agents[:_MAX_AGENTS]]),
    )


def _most_ended(report: Report) -> list[AgentStats]:
    return sorted(report.agent_stats, key=lambda stats: -stats.ended)


def _ended(by: str, rows: Sequence[TypeStats] | Sequence[AgentStats], names: list[str]) -> Chart:
    return _charts.bars(
        f"Runs that ended, by {by} and status; the table beside has the numbers.",
        names,
        [
            Series(plain(status), tone(status), [getattr(row, name) for row in rows])
            for status, name in _STATUSES.items()
            if any(getattr(row, name) for row in rows)
        ],
        said=[f"{row.ended:,}" for row in rows],
    )


def _durations(report: Report) -> Section:
    types = [stats for stats in report.types if stats.duration_p50_seconds is not None]
    if not types:
        return Section("No run that was started ended in this time.", None)
    longest = max(types, key=lambda stats: stats.duration_p50_seconds or 0)
    return Section(
        f"Half of the runs of {plain(longest.workflow_type)}, the longest, took more than "
        f"{_words.duration(longest.duration_p50_seconds)}. Of 100 runs, 95 take at most the time "
        "under p95, and 99 that under p99.",
        _charts.durations(types),
    )


def _failing(report: Report) -> Section:
    steps = report.failing_steps
    if not steps:
        return Section("No step failed in this time.", None)
    first = steps[0]
    return Section(
        f"The step {line(first.step_name, 60)} of {plain(first.workflow_type)} failed most often: "
        f"{first.failed:,} of {first.attempted:,} times.",
        _charts.bars(
            "Failures of the steps that fail most; the table has the numbers.",
            _charts.numbered([row.step_name for row in steps], range(1, len(steps) + 1)),
            [Series("failed", "red", [row.failed for row in steps])],
            said=[f"{row.failed:,}" for row in steps],
        ),
    )


def _slowest(report: Report) -> Section:
    steps = report.slowest_steps
    if not steps:
        return Section("No step ended in this time.", None)
    first = steps[0]
    statuses = dict.fromkeys(row.status for row in steps)
    return Section(
        f"The step {line(first.step_name, 60)} of {plain(first.workflow_type)} took longest: "
        f"{_words.duration(first.duration_seconds)}.",
        _charts.bars(
            "Durations of the slowest steps; the table has the numbers.",
            _charts.numbered([row.step_name for row in steps], range(1, len(steps) + 1)),
            [
                Series(
                    plain(status),
                    tone(status),
                    [row.duration_seconds if row.status is status else 0 for row in steps],
                )
                for status in statuses
            ],
            said=[_words.duration(row.duration_seconds) for row in steps],
        ),
    )


def _load(report: Report) -> Section:
    agents = _busiest(report)[:_MAX_AGENTS]
    if not agents:
        return Section("There are no agents.", None)
    running = sum(agent.running for agent in report.agents)
    pending = sum(agent.pending for agent in report.agents)
    sentence = (
        f"As it was when this page was made: {_runs(running)} "
        f"{'was' if running == 1 else 'were'} running, and {pending:,} waited."
    )
    if not running + pending:
        return Section(sentence, None)
    return Section(
        sentence,
        _charts.bars(
            "Runs of each agent that are running or wait; the table has the numbers.",
            [agent.name for agent in agents],
            [
                Series("running", "cyan", [agent.running for agent in agents]),
                Series("waiting", "wait", [agent.pending for agent in agents]),
            ],
            said=[f"{agent.running + agent.pending:,}" for agent in agents],
        ),
    )


def _busiest(report: Report) -> list[AgentLine]:
    return sorted(report.agents, key=lambda agent: -agent.running - agent.pending)


def _months(savings: Sequence[Saving]) -> list[Month]:
    by_month = defaultdict(list)
    for saving in savings:
        by_month[saving.month].append(saving)
    return [
        Month(
            f"{month:%b %Y}",
            sum(saving.recommendations for saving in rows),
            sum((saving.predicted_savings for saving in rows), Decimal()),
            sum((saving.approved_savings for saving in rows), Decimal()),
            sum((saving.realised_savings for saving in rows), Decimal()),
        )
        for month, rows in sorted(by_month.items())
    ]


def _savings(months: Sequence[Month]) -> Section:
    if not months:
        return Section("Nothing was recommended in this time.", None)
    predicted = sum((month.predicted for month in months), Decimal())
    realised = sum((month.realised for month in months), Decimal())
    sentence = (
        f"Of {_dollars(predicted)} a month that agents predicted, {_dollars(realised)} is realised"
    )
    sentence += f" ({_words.percent(float(realised / predicted))})." if predicted else "."
    sentence += " A saving counts in the month in which it was recommended."
    return Section(
        sentence,
        _charts.money_by_month(
            [month.month for month in months],
            [
                Series("predicted", "wait", [float(month.predicted) for month in months]),
                Series("approved", "cyan", [float(month.approved) for month in months]),
                Series("realised", "green", [float(month.realised) for month in months]),
            ],
        ),
    )


def _dollars(usd: Decimal) -> str:
    """Say an amount without its cents, which no one needs in a sum."""
    return _words.money(usd).removesuffix(".00")


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number:,} runs"
