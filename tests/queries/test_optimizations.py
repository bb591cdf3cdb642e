from decimal import Decimal

import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation

from optiinfra_db.generated.models import OptimizationStatus, RecommendationStatus

from .database import key


@pytest.fixture
def recommendation(db):
    made = db.make_recommendation()
    return db.recommendations.approve_recommendation(**key(made))


def queue(db, recommendation, **given):
    values = {
        "customer_id": recommendation.customer_id,
        "recommendation_id": recommendation.id,
        "agent_id": recommendation.agent_id,
    }
    return db.optimizations.create_optimization(**values | given)


def status_of(db, recommendation):
    return db.recommendations.get_recommendation(**key(recommendation)).status


def test_created_optimization_is_read_back_with_defaults(db, recommendation):
    made = queue(db, recommendation)

    assert made.status is OptimizationStatus.QUEUED
    assert (made.progress, made.result, made.error) == (0, {}, None)
    assert (made.actual_savings, made.actual_improvement) == (None, None)
    assert (made.started_at, made.completed_at, made.rolled_back_at) == (None, None, None)
    assert db.optimizations.get_optimization(**key(made)) == made
    assert queue(db, recommendation, id=made.id) == made


def test_completing_moves_the_recommendation_along(db, recommendation):
    made = queue(db, recommendation)

    started = db.optimizations.start_optimization(**key(made))
    assert started.status is OptimizationStatus.EXECUTING
    assert status_of(db, recommendation) is RecommendationStatus.EXECUTING

    assert db.optimizations.update_optimization_progress(**key(made), progress=40).progress == 40

    completed = db.optimizations.complete_optimization(
        **key(made),
        actual_savings=Decimal("-12.34"),
        actual_improvement=Decimal("1.50"),
        result={"released": 4},
    )
    assert (completed.status, completed.progress) == (OptimizationStatus.COMPLETED, 100)
    assert completed.actual_savings == Decimal("-12.34")
    assert completed.actual_improvement == Decimal("1.50")
    assert completed.result == {"released": 4}
    moved = db.recommendations.get_recommendation(**key(recommendation))
    assert moved.status is RecommendationStatus.COMPLETED
    assert moved.executed_at is not None

    rolled_back = db.optimizations.roll_back_optimization(**key(made))
    assert rolled_back.status is OptimizationStatus.ROLLED_BACK
    assert rolled_back.rolled_back_at is not None
    assert rolled_back.result == {"released": 4}
    assert status_of(db, recommendation) is RecommendationStatus.ROLLED_BACK


def test_failing_moves_an_executing_recommendation_along(db, recommendation):
    made = queue(db, recommendation)
    db.optimizations.start_optimization(**key(made))

    failed = db.optimizations.fail_optimization(
        **key(made), error="no quota", result={"released": 1}
    )

    assert (failed.status, failed.error) == (OptimizationStatus.FAILED, "no quota")
    assert failed.result == {"released": 1}
    assert status_of(db, recommendation) is RecommendationStatus.FAILED
    rolled_back = db.optimizations.roll_back_optimization(**key(made), result={"restored": True})
    assert (rolled_back.status, rolled_back.error) == (OptimizationStatus.ROLLED_BACK, "no quota")
    assert rolled_back.result == {"restored": True}
    assert status_of(db, recommendation) is RecommendationStatus.ROLLED_BACK


def test_one_that_fails_in_the_queue_leaves_the_recommendation_approved(db, recommendation):
    made = queue(db, recommendation)

    failed = db.optimizations.fail_optimization(**key(made), error="agent is gone")

    assert (failed.status, failed.started_at) == (OptimizationStatus.FAILED, None)
    assert status_of(db, recommendation) is RecommendationStatus.APPROVED


def test_what_is_not_approved_cannot_be_started(db):
    pending = db.make_recommendation()
    made = queue(db, pending)
    assert db.optimizations.start_optimization(**key(made)) is None

    db.recommendations.approve_recommendation(**key(pending))
    db.recommendations.reject_recommendation(**key(pending))
    assert db.optimizations.start_optimization(**key(made)) is None
    assert db.optimizations.get_optimization(**key(made)) == made


def test_one_that_never_started_does_not_move_the_recommendation_of_another(db, recommendation):
    executing, waiting = queue(db, recommendation), queue(db, recommendation)
    db.optimizations.start_optimization(**key(executing))
    assert db.optimizations.start_optimization(**key(waiting)) is None

    db.optimizations.fail_optimization(**key(waiting), error="superseded")
    assert status_of(db, recommendation) is RecommendationStatus.EXECUTING
    db.optimizations.complete_optimization(**key(executing))
    db.optimizations.roll_back_optimization(**key(waiting))
    assert status_of(db, recommendation) is RecommendationStatus.COMPLETED


def test_transitions_from_the_wrong_state_change_nothing(db, recommendation):
    functions = db.optimizations
    moves = {
        "start": lambda made: functions.start_optimization(**key(made)),
        "progress": lambda made: functions.update_optimization_progress(**key(made), progress=1),
        "complete": lambda made: functions.complete_optimization(**key(made)),
        "fail": lambda made: functions.fail_optimization(**key(made), error="x"),
        "roll back": lambda made: functions.roll_back_optimization(**key(made)),
    }

    def assert_refused(made, *names):
        before = functions.get_optimization(**key(made))
        for name in names:
            assert moves[name](made) is None, name
        assert functions.get_optimization(**key(made)) == before

    made = queue(db, recommendation)
    assert_refused(made, "progress", "complete", "roll back")
    moves["start"](made)
    assert_refused(made, "start", "roll back")
    moves["complete"](made)
    assert_refused(made, "start", "progress", "complete", "fail")
    moves["roll back"](made)
    assert_refused(made, *moves)


@pytest.mark.parametrize("progress", [-1, 101])
def test_progress_out_of_range_is_refused(db, recommendation, progress):
    made = queue(db, recommendation)
    db.optimizations.start_optimization(**key(made))

    with db.refused(CheckViolation, "optimizations_progress_check"):
        db.optimizations.update_optimization_progress(**key(made), progress=progress)


def test_savings_that_are_no_number_are_refused(db, recommendation):
    made = queue(db, recommendation)
    db.optimizations.start_optimization(**key(made))

    with db.refused(CheckViolation, "optimizations_actual_savings_check"):
        db.optimizations.complete_optimization(**key(made), actual_savings=Decimal("NaN"))
    with db.refused(CheckViolation, "optimizations_error_check"):
        db.optimizations.fail_optimization(**key(made), error="")
    with db.refused(CheckViolation, "optimizations_error_check"):
        db.optimizations.fail_optimization(**key(made), error=None)


def test_another_customers_recommendation_or_run_cannot_be_referenced(db, recommendation):
    other = db.make_customer()
    run = db.make_run(other)

    with db.refused(ForeignKeyViolation, "optimizations_recommendation_id_fkey"):
        queue(db, recommendation, customer_id=other.id)
    with db.refused(ForeignKeyViolation, "optimizations_workflow_execution_id_fkey"):
        queue(db, recommendation, workflow_execution_id=run.id)


def test_optimizations_are_listed(db):
    customer, agent = db.make_customer(), db.make_agent()
    run = db.make_run(customer, agent)
    recommendation = db.make_recommendation(customer, agent)
    made = [queue(db, recommendation, workflow_execution_id=run.id) for _ in range(4)]
    other = queue(db, recommendation, agent_id=db.make_agent().id)

    list_all = db.optimizations.list_optimizations
    first = list_all(customer_id=customer.id, max_rows=3)
    rest = list_all(customer_id=customer.id, max_rows=3, before_id=first[-1].id)
    assert first + rest == [other, *made[::-1]]
    by_agent = db.optimizations.list_optimizations_by_agent
    first = by_agent(customer_id=customer.id, agent_id=agent.id, max_rows=3)
    rest = by_agent(customer_id=customer.id, agent_id=agent.id, max_rows=3, before_id=first[-1].id)
    assert first + rest == made[::-1]
    assert db.optimizations.list_recommendation_optimizations(
        customer_id=customer.id, recommendation_id=recommendation.id
    ) == [*made, other]
    assert (
        db.optimizations.list_workflow_optimizations(
            customer_id=customer.id, workflow_execution_id=run.id
        )
        == made
    )


def test_deleting_the_run_keeps_the_optimization(db, recommendation):
    customer = db.customers.get_customer(id=recommendation.customer_id)
    run = db.make_run(customer)
    made = queue(db, recommendation, workflow_execution_id=run.id)

    db.workflow_executions.delete_workflow_execution(**key(run))

    assert db.optimizations.get_optimization(**key(made)).workflow_execution_id is None
    assert db.optimizations.delete_optimization(**key(made)) == 1
    assert db.optimizations.delete_optimization(**key(made)) == 0


@pytest.mark.parametrize("end", ["complete", "fail"])
def test_nothing_ends_before_it_started_whatever_the_clock_says(db, recommendation, end):
    """The server's clock was set back after the start."""
    made = queue(db, recommendation)
    db.optimizations.start_optimization(**key(made))
    db.execute("UPDATE optimizations SET started_at = now() + interval '1 hour'")
    db.execute("UPDATE recommendations SET approved_at = now() + interval '1 hour'")
    arguments = {"error": "x"} if end == "fail" else {}

    ended = vars(db.optimizations)[f"{end}_optimization"](**key(made), **arguments)

    assert ended.completed_at == ended.started_at
    moved = db.recommendations.get_recommendation(**key(recommendation))
    assert moved.executed_at == moved.approved_at
    db.execute("UPDATE optimizations SET completed_at = now() + interval '2 hours'")
    rolled_back = db.optimizations.roll_back_optimization(**key(made))
    assert rolled_back.rolled_back_at == rolled_back.completed_at
