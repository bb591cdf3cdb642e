from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from uuid import uuid4

import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation

from optiinfra_db.generated.models import (
    AgentType,
    ApprovalStatus,
    OptimizationStatus,
    RecommendationPriority,
    RecommendationStatus,
)

from .database import key, run_attempt, step_attempt, step_key

OPEN = ("pending", "approved", "executing")
ESTIMATES = ("20", None, "8", "5", "8", "9", "1")


def bring_to(db, recommendation, status):
    """Take a pending recommendation to another state, the way that customers and agents do."""
    if status == "rejected":
        return db.recommendations.reject_recommendation(**key(recommendation))
    if status != "pending":
        db.recommendations.approve_recommendation(**key(recommendation))
    if status not in {"pending", "approved"}:
        optimization = db.optimizations.create_optimization(
            customer_id=recommendation.customer_id,
            recommendation_id=recommendation.id,
            agent_id=recommendation.agent_id,
        )
        db.optimizations.start_optimization(**key(optimization))
        if status in {"completed", "rolled_back"}:
            db.optimizations.complete_optimization(**key(optimization))
        if status == "failed":
            db.optimizations.fail_optimization(**key(optimization), error="no quota")
        if status == "rolled_back":
            db.optimizations.roll_back_optimization(**key(optimization))
    return db.recommendations.get_recommendation(**key(recommendation))


def import_recommendation(db, customer, agent, *, created_at, status, savings, optimizations):
    """Write a recommendation as history is imported, with optimizations: [(status, savings)]."""
    ((id_,),) = db.execute(
        """
        INSERT INTO recommendations (
            customer_id, agent_id, type, title, status, estimated_savings, created_at,
            approved_at, executed_at
        )
        SELECT given.*,
            CASE WHEN status NOT IN ('pending', 'rejected') THEN created_at END,
            CASE WHEN status IN ('completed', 'failed', 'rolled_back') THEN created_at END
        FROM (
            SELECT %s::uuid, %s::uuid, 'cache', 'Cache more', %s::recommendation_status AS status,
                %s::numeric, %s::timestamptz AS created_at
        ) AS given
        RETURNING id
        """,
        [customer.id, agent.id, status, savings, created_at],
    )
    for optimization_status, actual_savings in optimizations:
        db.execute(
            """
            INSERT INTO optimizations (
                customer_id, recommendation_id, agent_id, status, actual_savings, error,
                started_at, completed_at, rolled_back_at
            )
            SELECT given.*, 'no quota', now(), now(),
                CASE WHEN status = 'rolled_back' THEN now() END
            FROM (
                SELECT %s::uuid, %s::uuid, %s::uuid, %s::optimization_status AS status, %s::numeric
            ) AS given
            """,
            [customer.id, id_, agent.id, optimization_status, actual_savings],
        )
    return id_


def pages(function, *cursor, **arguments):
    """Read a list in pages of two rows, each from the cursor that the one before ended with."""
    rows, after = [], {}
    while page := function(max_rows=2, **arguments, **after):
        rows += page
        after = {f"before_{name.split('_')[-1]}": getattr(page[-1], name) for name in cursor}
    return rows


def test_created_recommendation_is_read_back_with_defaults(db):
    made = db.make_recommendation()

    assert made.status is RecommendationStatus.PENDING
    assert made.priority is RecommendationPriority.MEDIUM
    assert (made.estimated_savings, made.estimated_improvement) == (None, None)
    assert (made.confidence_score, made.workflow_execution_id) == (None, None)
    assert (made.description, made.data) == ("", {})
    assert (made.approved_at, made.executed_at) == (None, None)
    assert db.recommendations.get_recommendation(**key(made)) == made


def test_every_field_is_kept(db):
    customer, agent = db.make_customer(), db.make_agent()
    run = db.make_run(customer, agent)
    made = db.make_recommendation(
        customer,
        agent,
        workflow_execution_id=run.id,
        description="Long.",
        estimated_savings=Decimal("9999999999.99"),
        estimated_improvement=Decimal("1.80"),
        confidence_score=0.1,
        priority=RecommendationPriority.CRITICAL,
        data={"gpus": ["a", "b"]},
    )

    assert made.estimated_savings == Decimal("9999999999.99")
    assert made.estimated_improvement == Decimal("1.80")
    assert made.confidence_score == 0.1
    assert made.priority is RecommendationPriority.CRITICAL
    second = db.make_recommendation(customer, agent, workflow_execution_id=run.id)
    assert db.recommendations.list_workflow_recommendations(
        customer_id=customer.id, workflow_execution_id=run.id
    ) == [made, second]


def test_creating_twice_with_one_id_returns_the_first(db):
    customer, agent = db.make_customer(), db.make_agent()
    first = db.make_recommendation(customer, agent)

    assert db.make_recommendation(customer, agent, id=first.id, title="Other") == first


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", ""),
        ("title", ""),
        ("estimated_savings", Decimal("-0.01")),
        ("estimated_savings", Decimal("NaN")),
        ("estimated_improvement", Decimal(-1)),
        ("confidence_score", 1.01),
        ("confidence_score", -0.01),
        ("confidence_score", float("nan")),
        ("data", []),
    ],
)
def test_values_out_of_range_are_refused(db, field, value):
    customer, agent = db.make_customer(), db.make_agent()

    with db.refused(CheckViolation, f"recommendations_{field}_check"):
        db.make_recommendation(customer, agent, **{field: value})


def test_a_run_of_another_customer_cannot_be_referenced(db):
    customer, agent = db.make_customer(), db.make_agent()
    run = db.make_run()

    with db.refused(ForeignKeyViolation, "recommendations_workflow_execution_id_fkey"):
        db.make_recommendation(customer, agent, workflow_execution_id=run.id)


def test_deleting_the_run_keeps_the_recommendation_and_its_customer(db):
    customer, agent = db.make_customer(), db.make_agent()
    run = db.make_run(customer, agent)
    made = db.make_recommendation(customer, agent, workflow_execution_id=run.id)

    db.workflow_executions.delete_workflow_execution(**key(run))

    kept = db.recommendations.get_recommendation(**key(made))
    assert (kept.customer_id, kept.workflow_execution_id) == (customer.id, None)


def test_recommendations_are_listed_newest_first_page_by_page(db):
    customer, agent = db.make_customer(), db.make_agent()
    made = [db.make_recommendation(customer, agent) for _ in range(5)]
    other = db.make_recommendation(customer, db.make_agent())
    db.make_recommendation(None, agent)

    list_all = db.recommendations.list_recommendations
    first = list_all(customer_id=customer.id, max_rows=4)
    rest = list_all(customer_id=customer.id, max_rows=4, before_id=first[-1].id)
    assert first + rest == [other, *made[::-1]]

    by_agent = db.recommendations.list_recommendations_by_agent
    first = by_agent(customer_id=customer.id, agent_id=agent.id, max_rows=3)
    rest = by_agent(customer_id=customer.id, agent_id=agent.id, max_rows=3, before_id=first[-1].id)
    assert first + rest == made[::-1]


@pytest.mark.parametrize("status", RecommendationStatus)
def test_recommendations_are_listed_by_state(db, status):
    customer, agent = db.make_customer(), db.make_agent()
    made = [
        bring_to(db, db.make_recommendation(customer, agent), at)
        for _ in range(3)
        for at in RecommendationStatus
    ]
    bring_to(db, db.make_recommendation(None, agent), status)

    listed = pages(
        db.recommendations.list_recommendations_by_status,
        "id",
        customer_id=customer.id,
        status=status,
    )

    assert listed == [row for row in made[::-1] if row.status is status]
    assert len(listed) == 3


def test_recommendations_are_listed_by_type_and_by_priority(db):
    customer, agent = db.make_customer(), db.make_agent()
    made = [
        db.make_recommendation(customer, agent, type=kind, priority=priority)
        for priority in RecommendationPriority
        for kind in ("rightsize_gpu", "tier_storage", "cache")
    ]
    db.make_recommendation(None, agent, type="cache", priority=RecommendationPriority.LOW)

    by_type = db.recommendations.list_recommendations_by_type
    assert pages(by_type, "id", customer_id=customer.id, type="cache") == made[2::3][::-1]
    assert by_type(customer_id=customer.id, type="Cache", max_rows=9) == []
    by_priority = db.recommendations.list_recommendations_by_priority
    for place, priority in enumerate(RecommendationPriority):
        listed = pages(by_priority, "id", customer_id=customer.id, priority=priority)
        assert listed == made[3 * place : 3 * place + 3][::-1]


def test_the_biggest_savings_come_first_and_the_newest_among_equals(db):
    customer, agent = db.make_customer(), db.make_agent()
    savings = ["7", "10", None, "0", "10.00", "9999999999.99", "10", "6.99", None]
    made = [
        db.make_recommendation(customer, agent, estimated_savings=value and Decimal(value))
        for value in savings
    ]
    db.make_recommendation(None, agent, estimated_savings=Decimal(8))
    by_savings = db.recommendations.list_recommendations_by_savings

    listed = pages(by_savings, "estimated_savings", "id", customer_id=customer.id)

    assert listed == [made[place] for place in (5, 6, 4, 1, 0, 7, 3)]
    at_least = pages(
        by_savings, "estimated_savings", "id", customer_id=customer.id, min_savings=Decimal(7)
    )
    assert at_least == listed[:5]
    assert by_savings(customer_id=customer.id, min_savings=Decimal(0), max_rows=99) == listed


@pytest.fixture
def open_ones(db):
    """Make a customer with two recommendations in each state, and return those not over."""
    customer, agents = db.make_customer(), [db.make_agent(), db.make_agent()]
    made = [
        bring_to(
            db,
            db.make_recommendation(
                customer,
                agents[number],
                type=("rightsize_gpu", "cache")[number],
                priority=(RecommendationPriority.LOW, RecommendationPriority.HIGH)[number],
                estimated_savings=savings and Decimal(savings),
            ),
            status,
        )
        for number in (0, 1)
        for status, savings in zip(RecommendationStatus, ESTIMATES, strict=True)
    ]
    bring_to(db, db.make_recommendation(None, agents[0], estimated_savings=Decimal(9)), "approved")
    listed = [row for row in made if row.status in OPEN]
    assert len(listed) == 6
    return listed


def test_recent_ones_are_of_all_customers_in_each_state_newest_first(db, open_ones):
    customer_id = open_ones[0].customer_id
    listing = db.recommendations.list_recent_recommendations
    by_status = db.recommendations.list_recent_recommendations_by_status

    listed = listing(max_rows=99)

    keys = [(row.recommendation.id, row.recommendation.customer_id) for row in listed]
    assert keys == sorted(keys, reverse=True)
    assert len({customer for _, customer in keys}) == 2
    assert listing(max_rows=2) == listed[:2]
    of_customer = listing(max_rows=99, customer_id=customer_id)
    assert of_customer == [r for r in listed if r.recommendation.customer_id == customer_id]
    assert len(of_customer) == 2 * len(RecommendationStatus)
    customer = db.customers.get_customer(id=customer_id)
    assert {row.customer_name for row in of_customer} == {customer.name}
    for row in of_customer:
        assert row.agent_name == db.agents.get_agent(id=row.recommendation.agent_id).name
    for status in RecommendationStatus:
        assert by_status(max_rows=99, status=status) == [
            row for row in listed if row.recommendation.status == status
        ]
    assert len(by_status(max_rows=99, status="approved", customer_id=customer_id)) == 2
    assert listing(max_rows=9, customer_id=uuid4()) == []


def test_a_range_of_ids_has_both_ends(db, open_ones):
    listing = db.recommendations.list_recommendations_by_id_range
    first, *_, last = open_ones

    found = listing(first_id=first.id, last_id=last.id, max_rows=99)

    assert (found[0], found[-1]) == (last, first)
    assert [row.id for row in found] == sorted((row.id for row in found), reverse=True)
    assert listing(first_id=first.id, last_id=first.id, max_rows=9) == [first]
    ends = {"first_id": first.id, "last_id": last.id}
    assert listing(**ends, max_rows=2) == found[:2]
    assert listing(**ends, max_rows=99, customer_id=first.customer_id) == found
    assert listing(**ends, max_rows=99, customer_id=uuid4()) == []
    elsewhere = db.make_recommendation(db.make_customer(), id=first.id)
    of_both = listing(first_id=first.id, last_id=first.id, max_rows=9)
    assert {row.customer_id for row in of_both} == {first.customer_id, elsewhere.customer_id}
    newest = db.recommendations.list_recent_recommendations(max_rows=99)
    assert sum(row.recommendation.id == first.id for row in newest) == 2


def test_what_is_not_over_is_listed_newest_first(db, open_ones):
    listed = pages(
        db.recommendations.list_open_recommendations, "id", customer_id=open_ones[0].customer_id
    )

    assert listed == open_ones[::-1]


def test_what_is_not_over_is_listed_by_savings_those_unknown_last(db, open_ones):
    listed = pages(
        db.recommendations.list_open_recommendations_by_savings,
        "estimated_savings",
        "id",
        customer_id=open_ones[0].customer_id,
    )

    assert [row.estimated_savings for row in listed] == [20, 20, 5, 5, None, None]
    assert listed == sorted(
        open_ones,
        key=lambda row: (-1 if row.estimated_savings is None else row.estimated_savings, row.id),
        reverse=True,
    )


@pytest.mark.parametrize(
    "names",
    [
        {"status"},
        {"type"},
        {"priority"},
        {"agent_id"},
        {"status", "type", "priority", "agent_id"},
    ],
)
@pytest.mark.parametrize("min_savings", [None, Decimal(5), Decimal("5.01")])
def test_what_is_not_over_can_be_narrowed_down(db, open_ones, names, min_savings):
    pattern = open_ones[0]
    wanted = [
        row
        for row in open_ones
        if all(getattr(row, name) == getattr(pattern, name) for name in names)
        and (min_savings is None or (row.estimated_savings or 0) >= min_savings)
    ]
    assert 0 < len(wanted) < len(open_ones)
    arguments = {name: getattr(pattern, name) for name in names} | {
        "customer_id": pattern.customer_id,
        "min_savings": min_savings,
    }

    newest = db.recommendations.list_open_recommendations
    assert pages(newest, "id", **arguments) == wanted[::-1]
    biggest = db.recommendations.list_open_recommendations_by_savings
    listed = pages(biggest, "estimated_savings", "id", **arguments)
    assert sorted(listed, key=lambda row: row.id) == wanted


def test_what_is_over_is_not_open_even_if_asked_for(db, open_ones):
    customer_id = open_ones[0].customer_id
    for function in (
        db.recommendations.list_open_recommendations,
        db.recommendations.list_open_recommendations_by_savings,
    ):
        for nothing in (
            {"status": RecommendationStatus.COMPLETED},
            {"min_savings": Decimal("20.01")},
            {"type": "rightsize_gpu", "priority": RecommendationPriority.HIGH},
        ):
            assert function(customer_id=customer_id, max_rows=9, **nothing) == []


def test_the_trace_leads_from_the_run_to_the_savings(db):
    customer, agent = db.make_customer(), db.make_agent()
    run = db.make_run(customer, agent, step_names=["collect", "analyze"])
    run = db.start_run(run)
    for step in db.steps_of(run):
        db.workflow_steps.start_workflow_step(**step_key(step))
        db.workflow_steps.complete_workflow_step(**step_attempt(step))
    report = db.make_artifact(run, db.steps_of(run)[1])
    chart = db.make_artifact(run)
    run = db.workflow_executions.complete_workflow_execution(**run_attempt(run))
    db.make_artifact(db.make_run(customer, agent))
    made = db.make_recommendation(
        customer, agent, workflow_execution_id=run.id, estimated_savings=Decimal("80.00")
    )
    of_made = {"customer_id": customer.id, "recommendation_id": made.id}
    late = db.approvals.create_approval(**of_made, expires_at=datetime.now(UTC) - timedelta(1))
    db.approvals.delete_approval(**key(late))
    asked = db.approvals.create_approval(**of_made)
    approval = db.approvals.decide_approval(
        **key(asked), status=ApprovalStatus.APPROVED, approved_by="ada@example.com"
    )
    other = db.make_agent(type=AgentType.RESOURCE)
    gone = db.optimizations.create_optimization(**of_made, agent_id=other.id)
    gone = db.optimizations.fail_optimization(**key(gone), error="agent is gone")
    resize = db.make_run(customer, other)
    done = db.optimizations.create_optimization(
        **of_made, agent_id=other.id, workflow_execution_id=resize.id
    )
    db.optimizations.start_optimization(**key(done))

    trace = db.recommendations.get_recommendation_trace(**key(made))
    assert (trace.predicted_savings, trace.realised_savings) == (Decimal(80), None)
    assert (trace.savings_difference, trace.savings_ratio) == (None, None)

    done = db.optimizations.complete_optimization(**key(done), actual_savings=Decimal("60.00"))
    trace = db.recommendations.get_recommendation_trace(**key(made))
    assert trace.recommendation == db.recommendations.get_recommendation(**key(made))
    assert trace.agent == agent
    assert trace.approvals == [approval]
    assert trace.workflow_execution == run
    assert trace.steps == db.steps_of(run)
    assert [step.step_name for step in trace.steps] == ["collect", "analyze"]
    assert trace.artifacts == [report, chart]
    assert trace.optimizations == [gone, done]
    assert trace.optimization_runs == [resize]
    assert (trace.predicted_savings, trace.realised_savings) == (Decimal(80), Decimal(60))
    assert (trace.savings_difference, trace.savings_ratio) == (Decimal(-20), Decimal("0.75"))

    db.optimizations.roll_back_optimization(**key(done))
    trace = db.recommendations.get_recommendation_trace(**key(made))
    assert trace.optimizations[1].status is OptimizationStatus.ROLLED_BACK
    assert trace.optimizations[1].actual_savings == Decimal(60)
    assert (trace.realised_savings, trace.savings_difference) == (None, None)


def test_the_trace_of_what_came_from_nowhere_and_led_to_nothing_is_empty(db):
    made = db.make_recommendation(estimated_savings=Decimal(0))

    trace = db.recommendations.get_recommendation_trace(**key(made))

    assert (trace.recommendation, trace.workflow_execution) == (made, None)
    assert trace.approvals == trace.steps == trace.artifacts == []
    assert trace.optimizations == trace.optimization_runs == []
    assert (trace.predicted_savings, trace.realised_savings) == (0, None)
    assert (
        db.recommendations.get_recommendation_trace(customer_id=db.make_customer().id, id=made.id)
        is None
    )


def test_what_is_realised_is_the_sum_of_what_completed_and_stands(db):
    customer, agent = db.make_customer(), db.make_agent()
    carried_out = [("completed", 5), ("completed", "-2.50"), ("rolled_back", 9), ("failed", None)]
    traces = [
        db.recommendations.get_recommendation_trace(
            customer_id=customer.id,
            id=import_recommendation(
                db,
                customer,
                agent,
                created_at=datetime(2026, 3, 1, tzinfo=UTC),
                status="completed",
                savings=savings,
                optimizations=carried_out,
            ),
        )
        for savings in (10, 0, None)
    ]

    assert [trace.realised_savings for trace in traces] == [Decimal("2.50")] * 3
    assert [trace.savings_difference for trace in traces] == [
        Decimal("-7.50"),
        Decimal("2.50"),
        None,
    ]
    assert [trace.savings_ratio for trace in traces] == [Decimal("0.25"), None, None]


def test_savings_are_told_by_month_in_utc_and_agent(db):
    customer, other = db.make_customer(), db.make_customer()
    second = db.make_agent(name="cost-b")
    first = db.make_agent(name="cost-a")
    march = datetime(2026, 3, 1, tzinfo=UTC)
    midway = march + timedelta(days=14)
    for owner, agent, created_at, status, savings, *optimizations in [
        (customer, first, march - timedelta(microseconds=1), "pending", 1),
        (customer, first, march, "pending", 1),
        (customer, first, midway, "pending", None),
        (customer, first, midway, "rejected", 2),
        (customer, first, midway, "approved", 4),
        (customer, first, midway, "executing", 8),
        (customer, first, midway, "completed", 16, ("failed", None), ("completed", 10)),
        (customer, first, midway, "completed", None, ("completed", "-2.50")),
        (customer, first, midway, "completed", 32, ("completed", None)),
        (customer, first, midway, "failed", 64, ("failed", None)),
        (customer, first, midway, "rolled_back", 128, ("rolled_back", 120)),
        (customer, second, midway, "completed", 100, ("completed", 60), ("completed", 50)),
        (customer, first, datetime(2026, 4, 1, tzinfo=UTC), "pending", 1),
        (other, second, midway, "rejected", 1000),
    ]:
        import_recommendation(
            db,
            owner,
            agent,
            created_at=created_at,
            status=status,
            savings=savings,
            optimizations=optimizations,
        )
    window = {"since": march - timedelta(days=1), "until": datetime(2026, 4, 1, tzinfo=UTC)}
    # Whatever the reader's zone is: here it is another month already, or still.
    db.execute("SET LOCAL timezone = 'Pacific/Kiritimati'")

    rows = db.recommendations.list_savings(customer_id=customer.id, **window)

    values = attrgetter(
        "month",
        "agent_id",
        "agent_name",
        "recommendations",
        "rejected",
        "approved",
        "completed",
        "rolled_back",
        "predicted_savings",
        "approved_savings",
        "realised_savings",
    )
    expected = [
        (date(2026, 3, 1), first.id, "cost-a", 10, 1, 7, 3, 1, 255, 252, Decimal("7.50")),
        (date(2026, 3, 1), second.id, "cost-b", 1, 0, 1, 1, 0, 100, 100, 110),
        (date(2026, 2, 1), first.id, "cost-a", 1, 0, 0, 0, 0, 1, 0, 0),
    ]
    assert [values(row) for row in rows] == expected

    rows = db.recommendations.list_savings(**window)

    assert [[row.customer_id, row.customer_name, row.month, row.agent_id] for row in rows] == [
        [customer.id, customer.name, date(2026, 3, 1), first.id],
        [customer.id, customer.name, date(2026, 3, 1), second.id],
        [other.id, other.name, date(2026, 3, 1), second.id],
        [customer.id, customer.name, date(2026, 2, 1), first.id],
    ]
    assert [values(row) for row in rows if row.customer_id == customer.id] == expected
    assert (rows[2].rejected, rows[2].predicted_savings, rows[2].realised_savings) == (1, 1000, 0)


def test_approving_moves_a_pending_recommendation_once(db):
    made = db.make_recommendation()

    approved = db.recommendations.approve_recommendation(**key(made))

    assert approved.status is RecommendationStatus.APPROVED
    assert approved.approved_at is not None
    assert db.recommendations.approve_recommendation(**key(made)) is None
    assert db.recommendations.get_recommendation(**key(made)) == approved


@pytest.mark.parametrize("approve_first", [False, True])
def test_rejecting_moves_a_pending_or_approved_recommendation_once(db, approve_first):
    made = db.make_recommendation()
    if approve_first:
        db.recommendations.approve_recommendation(**key(made))

    rejected = db.recommendations.reject_recommendation(**key(made))

    assert rejected.status is RecommendationStatus.REJECTED
    assert db.recommendations.reject_recommendation(**key(made)) is None
    assert db.recommendations.approve_recommendation(**key(made)) is None
    assert db.recommendations.get_recommendation(**key(made)) == rejected


def test_transitions_of_another_customers_recommendation_change_nothing(db):
    made, other = db.make_recommendation(), db.make_customer()

    for move in (
        db.recommendations.approve_recommendation,
        db.recommendations.reject_recommendation,
    ):
        assert move(customer_id=other.id, id=made.id) is None
    assert db.recommendations.delete_recommendation(customer_id=other.id, id=made.id) == 0
    assert db.recommendations.get_recommendation(customer_id=other.id, id=made.id) is None
    assert db.recommendations.get_recommendation(**key(made)) == made


def test_deleting_a_recommendation_deletes_approvals_and_optimizations(db):
    made = db.make_recommendation()
    approval = db.approvals.create_approval(customer_id=made.customer_id, recommendation_id=made.id)
    optimization = db.optimizations.create_optimization(
        customer_id=made.customer_id, recommendation_id=made.id, agent_id=made.agent_id
    )

    assert db.recommendations.delete_recommendation(**key(made)) == 1

    assert db.approvals.get_approval(**key(approval)) is None
    assert db.optimizations.get_optimization(**key(optimization)) is None
