"""What people read in psql of the recommendations."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from psycopg.rows import namedtuple_row

from optiinfra_db.generated.models import ApprovalStatus

from ..queries.database import Database, key, step_attempt, step_key


@pytest.fixture
def db(conn):
    return Database("", lambda function, **kwargs: function(conn, **kwargs), conn.execute)


@pytest.fixture
def read(conn):
    """Run a query and return its rows with a field a column."""

    def run(query, *params):
        with conn.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute(query, params).fetchall()

    return run


def trace_of(read, recommendation):
    (row,) = read(
        "SELECT * FROM recommendation_trace WHERE customer_id = %s AND recommendation_id = %s",
        recommendation.customer_id,
        recommendation.id,
    )
    return row


def ask(db, recommendation, **given):
    return db.approvals.create_approval(
        customer_id=recommendation.customer_id, recommendation_id=recommendation.id, **given
    )


def carry_out(db, recommendation, savings):
    optimization = db.optimizations.create_optimization(
        customer_id=recommendation.customer_id,
        recommendation_id=recommendation.id,
        agent_id=recommendation.agent_id,
    )
    db.optimizations.start_optimization(**key(optimization))
    return db.optimizations.complete_optimization(**key(optimization), actual_savings=savings)


def test_the_trace_of_a_recommendation_that_nobody_looked_at_yet(db, read):
    customer, agent = db.make_customer(), db.make_agent()
    made = db.make_recommendation(customer, agent)

    row = trace_of(read, made)

    assert (row.customer, row.title, row.agent) == (customer.name, made.title, agent.name)
    assert (row.status, row.priority, row.created_at) == ("pending", "medium", made.created_at)
    assert (row.steps_done, row.steps_total, row.artifacts) == (0, 0, 0)
    assert (row.customer_id, row.agent_id) == (customer.id, agent.id)
    names = (
        "approval decided_by decided_at waited_for workflow optimization progress predicted_savings"
        " realised_savings savings_difference approval_id workflow_execution_id optimization_id"
    )
    for name in names.split():
        assert getattr(row, name) is None, name


def test_the_trace_leads_from_the_run_to_the_savings(db, read):
    customer, agent = db.make_customer(), db.make_agent()
    run = db.start_run(db.make_run(customer, agent))
    first, second, _ = db.steps_of(run)
    db.workflow_steps.start_workflow_step(**step_key(first))
    db.workflow_steps.complete_workflow_step(**step_attempt(first))
    db.workflow_steps.skip_workflow_step(**step_attempt(second))
    db.make_artifact(run)
    db.make_artifact(run, first)
    made = db.make_recommendation(
        customer, agent, workflow_execution_id=run.id, estimated_savings=Decimal(100)
    )
    asked = ask(db, made)
    db.approvals.decide_approval(**key(asked), status=ApprovalStatus.APPROVED, approved_by="ada")
    done = carry_out(db, made, Decimal("80.50"))

    row = trace_of(read, made)
    assert (row.status, row.approval, row.decided_by) == ("completed", "approved", "ada")
    assert row.decided_at is not None
    assert (row.workflow, row.steps_done, row.steps_total, row.artifacts) == (
        "cost_analysis",
        2,
        3,
        2,
    )
    assert (row.optimization, row.progress) == ("completed", 100)
    assert (row.predicted_savings, row.realised_savings) == (100, Decimal("80.50"))
    assert row.savings_difference == Decimal("-19.50")
    assert (row.workflow_execution_id, row.approval_id) == (run.id, asked.id)
    assert row.optimization_id == done.id

    db.workflow_executions.cancel_workflow_execution(**key(run), reason="enough")
    assert trace_of(read, made).steps_done == 2, "what the end of the run closed is not done"
    db.optimizations.roll_back_optimization(**key(done))
    row = trace_of(read, made)
    assert (row.status, row.optimization) == ("rolled_back", "rolled_back")
    assert (row.realised_savings, row.savings_difference) == (None, None)


def test_the_trace_tells_of_the_latest_approval_and_how_long_it_waited(db, read, conn):
    made = db.make_recommendation()
    conn.execute(
        """
        INSERT INTO approvals (
            customer_id, recommendation_id, status, approved_by, created_at, decided_at
        )
        VALUES (%s, %s, 'rejected', 'bob', now() - interval '9 days', now() - interval '8 days')
        """,
        [made.customer_id, made.id],
    )
    row = trace_of(read, made)
    assert (row.approval, row.decided_by, row.waited_for) == ("rejected", "bob", timedelta(days=1))

    latest = {"customer_id": made.customer_id, "recommendation_id": made.id}
    for expires_in, waited_for in [(None, 5), ("1 hour", 5), ("-2 hours", 3)]:
        conn.execute("DELETE FROM approvals WHERE status = 'pending'")
        conn.execute(
            """
            INSERT INTO approvals (customer_id, recommendation_id, created_at, expires_at)
            VALUES (
                %(customer_id)s, %(recommendation_id)s,
                now() - interval '5 hours 0.9 seconds', now() + %(expires_in)s::interval
            )
            """,
            latest | {"expires_in": expires_in},
        )
        row = trace_of(read, made)
        assert (row.approval, row.decided_by, row.decided_at) == ("pending", None, None)
        assert row.waited_for == timedelta(hours=waited_for), expires_in

    db.recommendations.approve_recommendation(**key(made))
    row = trace_of(read, made)
    assert (row.approval, row.waited_for) == ("pending", None), "it was decided without it"


def test_savings_are_shown_by_month_customer_and_agent(db, read, conn):
    customer, other = db.make_customer(), db.make_customer()
    agents = [db.make_agent(), db.make_agent()]
    border = datetime(2026, 4, 1, tzinfo=UTC)
    for owner, agent, created_at, status, savings, realised in [
        (customer, agents[0], border - timedelta(microseconds=1), "pending", 1, None),
        (customer, agents[0], border, "pending", None, None),
        (customer, agents[0], border, "rejected", 2, None),
        (customer, agents[0], border, "completed", 4, "3.25"),
        (customer, agents[0], border, "completed", 8, "-1"),
        (customer, agents[0], border, "rolled_back", 16, "16"),
        (customer, agents[1], border + timedelta(days=29), "approved", 32, None),
        (other, agents[1], border, "completed", 64, "64"),
    ]:
        conn.execute(
            """
            WITH made AS (
                INSERT INTO recommendations (
                    customer_id, agent_id, created_at, status, estimated_savings, type, title,
                    approved_at, executed_at
                )
                SELECT given.*, 'cache', 'Cache more',
                    CASE WHEN status NOT IN ('pending', 'rejected') THEN created_at END,
                    CASE WHEN status IN ('completed', 'rolled_back') THEN created_at END
                FROM (
                    SELECT %s::uuid, %s::uuid, %s::timestamptz AS created_at,
                        %s::recommendation_status AS status, %s::numeric
                ) AS given
                RETURNING *
            )
            INSERT INTO optimizations (
                customer_id, recommendation_id, agent_id, status, actual_savings,
                started_at, completed_at, rolled_back_at
            )
            SELECT customer_id, id, agent_id, status::text::optimization_status, %s::numeric,
                executed_at, executed_at, CASE WHEN status = 'rolled_back' THEN executed_at END
            FROM made
            WHERE executed_at IS NOT NULL
            """,
            [owner.id, agent.id, created_at, status, savings, realised],
        )
    # Whatever the reader's zone is: here it is still March.
    conn.execute("SET LOCAL timezone = 'America/Los_Angeles'")

    rows = read(
        """
        SELECT month, customer, agent, recommendations, rejected, approved, completed, rolled_back,
            predicted_savings, approved_savings, realised_savings, customer_id, agent_id
        FROM savings_by_month
        WHERE customer_id = any(%s)
        ORDER BY customer_id, month, agent_id
        """,
        [customer.id, other.id],
    )

    april, mine, theirs = date(2026, 4, 1), customer.name, other.name
    assert [row[:8] for row in rows] == [
        (date(2026, 3, 1), mine, agents[0].name, 1, 0, 0, 0, 0),
        (april, mine, agents[0].name, 5, 1, 3, 2, 1),
        (april, mine, agents[1].name, 1, 0, 1, 0, 0),
        (april, theirs, agents[1].name, 1, 0, 1, 1, 0),
    ]
    assert [row[8:] for row in rows] == [
        (1, 0, 0, customer.id, agents[0].id),
        (30, 28, Decimal("2.25"), customer.id, agents[0].id),
        (32, 32, 0, customer.id, agents[1].id),
        (64, 64, 64, other.id, agents[1].id),
    ]


@pytest.mark.parametrize("view", ["recommendation_trace", "savings_by_month"])
def test_a_view_shows_no_more_than_its_reader_may_see(db, read, conn, view):
    seen, hidden = db.make_recommendation(), db.make_recommendation()
    query = f"SELECT customer_id FROM {view} WHERE customer_id = any(%s)"
    both = [seen.customer_id, hidden.customer_id]
    assert {row.customer_id for row in read(query, both)} == set(both)
    conn.execute(f"SELECT set_config('optiinfra.customer_id', '{seen.customer_id}', true)")

    conn.execute("SET LOCAL ROLE optiinfra_tenant")

    assert [row.customer_id for row in read(query, both)] == [seen.customer_id]
