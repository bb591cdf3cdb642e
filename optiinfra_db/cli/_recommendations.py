"""The commands on recommendations: optiinfra-db recommendations."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from optiinfra_db import _words
from optiinfra_db.cli._shared import (
    AsJson,
    By,
    Column,
    CustomerOption,
    Key,
    Limit,
    Refused,
    Url,
    Utc,
    Yes,
    actor,
    choices,
    confirm,
    customer_id,
    find_recommendation,
    group,
    plain,
    print_json,
    print_table,
    show,
    status_text,
    when,
)
from optiinfra_db.connection import acting, connect
from optiinfra_db.generated.models import ApprovalStatus, RecommendationStatus

if TYPE_CHECKING:
    from psycopg import Connection

    from optiinfra_db.shapes import Trace

app = group("recommendations", "Look at recommendations, and decide on them.")

RecommendationId = Annotated[
    str,
    typer.Argument(
        metavar="RECOMMENDATION", help="The id of a recommendation, or the beginning of it."
    ),
]
Comment = Annotated[str | None, typer.Option(metavar="TEXT", help="Why.", show_default=False)]


@app.command("list", epilog="Example: optiinfra-db recommendations list --status pending")
def list_recommendations(
    url: Url = None,
    customer: CustomerOption = None,
    status: Annotated[
        RecommendationStatus | None,
        typer.Option(
            metavar="STATUS",
            help=f"Only those in this state: {choices(RecommendationStatus)}.",
            show_default=False,
        ),
    ] = None,
    limit: Limit = 20,
    utc: Utc = False,
    as_json: AsJson = False,
) -> None:
    """List the newest recommendations."""
    from optiinfra_db.generated import recommendations
    from optiinfra_db.shapes import RecommendationLine

    with connect(url) as conn:
        of = customer_id(conn, customer)
        rows = (
            recommendations.list_recent_recommendations_by_status(
                conn, customer_id=of, status=status, max_rows=limit
            )
            if status
            else recommendations.list_recent_recommendations(conn, customer_id=of, max_rows=limit)
        )
    if as_json:
        print_json([RecommendationLine.model_validate(row.recommendation) for row in rows])
        return
    ids = _words.short_ids([row.recommendation.id for row in rows])
    print_table(
        [
            Column("recommendation"),
            Column("status"),
            Column("priority", 3),
            Column("saves a month", 2, right=True),
            Column("title", 1, least=16),
            Column("customer", 4),
            Column("created", 5, right=True),
            Column("agent", 6),
        ],
        [
            (
                ids[row.recommendation.id],
                status_text(row.recommendation.status),
                row.recommendation.priority,
                _words.money(row.recommendation.estimated_savings),
                row.recommendation.title,
                row.customer_name,
                when(row.recommendation.created_at, utc=utc),
                row.agent_name,
            )
            for row in rows
        ],
        empty="No recommendation fits.",
    )


@app.command(
    "approve", epilog="Example: optiinfra-db recommendations approve 01941f29-7c00 --by alice"
)
def approve(
    recommendation: RecommendationId,
    url: Url = None,
    customer: CustomerOption = None,
    comment: Comment = None,
    by: By = None,
    yes: Yes = False,
) -> None:
    """Approve a recommendation, and keep who did it and why.

    The open question to the customer is answered with it; without one, it is asked first.
    """
    _decide(
        ApprovalStatus.APPROVED,
        recommendation,
        url=url,
        customer=customer,
        comment=comment,
        by=by,
        yes=yes,
    )


@app.command(
    "reject",
    epilog="Example: optiinfra-db recommendations reject 01941f29-7c00 --comment 'too risky'",
)
def reject(
    recommendation: RecommendationId,
    url: Url = None,
    customer: CustomerOption = None,
    comment: Comment = None,
    by: By = None,
    yes: Yes = False,
) -> None:
    """Reject a recommendation, and keep who did it and why.

    The open question to the customer is answered with it; without one, it is asked first. One that
    was approved can still be rejected, until it is carried out.
    """
    _decide(
        ApprovalStatus.REJECTED,
        recommendation,
        url=url,
        customer=customer,
        comment=comment,
        by=by,
        yes=yes,
    )


def _decide(
    answer: ApprovalStatus,
    recommendation: str,
    *,
    url: str | None,
    customer: str | None,
    comment: str | None,
    by: str | None,
    yes: bool,
) -> None:
    from optiinfra_db.generated import recommendations

    who = actor(by)
    with connect(url) as conn:
        key = find_recommendation(conn, recommendation, customer)
        found = recommendations.get_recommendation(conn, **key)
        verb = "Approve" if answer is ApprovalStatus.APPROVED else "Reject"
        confirm(f"{verb} {found.title if found else key['id']!r}?", yes=yes)
        with acting(conn, who):
            decided = _decided(conn, key, answer, who, comment)
        if decided is None:
            found = recommendations.get_recommendation(conn, **key)
            raise Refused(
                f"Recommendation {key['id']} is {found.status if found else 'gone'}, and cannot "
                f"be {answer}. See what came of it: "
                f"optiinfra-db recommendations trace {key['id']}"
            )
    print(f"{answer} {key['id']}")


def _decided(
    conn: "Connection[Any]",
    key: Key,
    answer: ApprovalStatus,
    who: str,
    comment: str | None,
) -> Any:  # noqa: ANN401 -- a row, or None where nothing moved
    """Answer the question to the customer, asking it first where nobody did, to keep who and why.

    One that has expired is taken back. What was approved before is rejected without a question.
    """
    from optiinfra_db.generated import approvals, recommendations

    found = recommendations.get_recommendation(conn, **key)
    if found is None or found.status is not RecommendationStatus.PENDING:
        is_rejected = answer is ApprovalStatus.REJECTED
        return recommendations.reject_recommendation(conn, **key) if is_rejected else None
    of, about = key["customer_id"], key["id"]
    asked = approvals.list_recommendation_approvals(conn, customer_id=of, recommendation_id=about)
    question = next((one for one in asked if one.status is ApprovalStatus.PENDING), None)
    if question and question.expires_at and question.expires_at <= datetime.now(UTC):
        approvals.delete_approval(conn, customer_id=of, id=question.id)
        question = None
    question = question or approvals.create_approval(conn, customer_id=of, recommendation_id=about)
    return approvals.decide_approval(
        conn,
        customer_id=of,
        id=question.id,
        status=answer,
        approved_by=who,
        comment=comment,
    )


@app.command("trace", epilog="Example: optiinfra-db recommendations trace 01941f29-7c00")
def trace(
    recommendation: RecommendationId,
    url: Url = None,
    customer: CustomerOption = None,
    utc: Utc = False,
    as_json: AsJson = False,
) -> None:
    """Follow a recommendation from its run to the saving."""
    from optiinfra_db import shapes

    with connect(url) as conn:
        found = shapes.load_trace(conn, **find_recommendation(conn, recommendation, customer))
    if as_json:
        print_json(found)
    else:
        show(_story(found, utc=utc))


def _story(found: "Trace", *, utc: bool) -> Group:
    """Tell what happened, oldest first."""
    proposed = found.recommendation
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")

    def row(time: Any, status: str, text: str) -> None:  # noqa: ANN401
        grid.add_row(when(time, utc=utc), status_text(status), plain(text))

    if run := found.workflow:
        row(run.completed_at or run.created_at, run.status, f"run {run.id} by {found.agent}")
    for artifact in found.artifacts:
        row(artifact.created_at, "", f"left {artifact.artifact_name}: {artifact.artifact_path}")
    row(
        proposed.created_at,
        "",
        f"proposed, to save {_words.money(proposed.estimated_savings) or 'nobody knows how much'} "
        "a month",
    )
    for approval in found.approvals:
        who = f"by {approval.approved_by}" if approval.approved_by else "waits for an answer"
        row(
            approval.decided_at or approval.created_at,
            approval.status,
            f"{who}{': ' + approval.comment if approval.comment else ''}",
        )
    if proposed.approved_at and not any(one.decided_at for one in found.approvals):
        row(proposed.approved_at, "approved", "without a question")
    for one in found.optimizations:
        told = one.error or (
            f"saves {_words.money(one.actual_savings)} a month"
            if one.actual_savings is not None
            else f"{one.progress} %"
        )
        row(one.rolled_back_at or one.completed_at or one.created_at, one.status, told)
    outcome = ""
    if found.realised_savings is not None:
        outcome = f"Saves {_words.money(found.realised_savings)} a month"
        if found.savings_ratio is not None:
            outcome += f", {_words.percent(found.savings_ratio)} of what was predicted"
        outcome += "."
    title = Text.assemble(plain(proposed.title, "bold"), "  ", status_text(proposed.status))
    parts = [title, Text(str(proposed.id), style="dim")]
    parts += [plain(proposed.description)] if proposed.description else []
    return Group(*parts, "", grid, *(["", outcome] if outcome else []))
