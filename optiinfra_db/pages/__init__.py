"""Pages to look at, to print and to send: a run, and how it went over a time.

Each is one file of HTML that needs nothing else: no network, no script, charts as SVG. It is light
or dark as its reader likes it. They need the extra `html`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from optiinfra_db import shapes

__all__ = ["report_page", "workflow_page"]


def workflow_page(
    run: shapes.Workflow, *, advice: Sequence[str] = (), now: datetime | None = None
) -> str:
    """Return a page that tells all of a run: its steps over time, what failed, what it left.

    `advice` says what to do next, a sentence or a command each. What still lasts, lasts until
    `now`. Raises OptiInfraError where the extra `html` is not installed.
    """
    from optiinfra_db.pages._workflow import context  # noqa: PLC0415 -- asked for rarely

    return _render("workflow.html.jinja", context(run, advice, now or datetime.now(UTC)))


def report_page(report: shapes.Report) -> str:
    """Return a page that tells how it went, for a customer or the whole platform.

    Raises OptiInfraError where the extra `html` is not installed.
    """
    from optiinfra_db.pages._report import context  # noqa: PLC0415 -- asked for rarely

    return _render("report.html.jinja", context(report))


def _render(template: str, values: dict[str, object]) -> str:
    from optiinfra_db.pages._templates import environment  # noqa: PLC0415 -- asked for rarely

    return environment().get_template(template).render(values)
