"""Every generated function on a distributed database: what works, on one shard or on all.

The functions are called as tests/plans calls them, and Citus tells which shards they go to.
"""

import inspect
import re

import psycopg
import pytest

from optiinfra_db.errors import DatabaseError
from optiinfra_db.generated import legal_holds

from ..plans.cases import BEFORE, ZERO_ID, arguments
from ..plans.explain import function_of, promises
from .conftest import SHARDS

SEALS = "function public.canonical_event("
COMPOSITES = "input of anonymous composite types is not implemented"
LOCKS = "could not run distributed query with FOR UPDATE/SHARE commands"
LATERAL = "cannot push down this subquery"
WORKS_NOT = {
    "event_seals.list_canonical_events": SEALS,
    "event_seals.list_canonical_events_by_subject": SEALS,
    "event_seals.seal_events": SEALS,
    "event_seals.verify_event_seals": SEALS,
    "recommendations.get_recommendation_trace": COMPOSITES,
    "workflow_executions.claim_workflow_execution": LOCKS,
    "workflow_executions.claim_workflow_executions": LOCKS,
    "workflow_executions.complete_workflow_executions": LATERAL,
    "workflow_executions.get_workflow_detail": COMPOSITES,
    "workflow_executions.time_out_workflow_executions": LOCKS,
}
"""What Citus refuses, and how; docs/guides/citus.md lists it."""

ON_ALL_SHARDS = {
    "legal_holds.list_legal_holds",
    "monitoring.count_workflow_executions",
    "monitoring.list_agent_stats",
    "monitoring.list_artifact_volume",
    "monitoring.list_failing_steps",
    "monitoring.list_slowest_steps",
    "monitoring.list_step_stats",
    "monitoring.list_stuck_workflows",
    "monitoring.list_workflow_stats",
    "monitoring.list_workflow_throughput",
    "recommendations.list_recent_recommendations",
    "recommendations.list_recent_recommendations_by_status",
    "recommendations.list_recommendations_by_id_range",
    "recommendations.list_savings",
    "workflow_executions.list_open_workflows",
    "workflow_executions.list_recent_workflows",
    "workflow_executions.list_recent_workflows_by",
    "workflow_executions.list_workflow_executions_by_id_range",
}
"""What goes through customers to their rows, and so to each shard, of one as of all."""

ON_NO_SHARD = {
    "access.enter_tenant",
    "agent_states.list_agent_states_by_workflow",
    "agent_states.set_agent_current_workflow",
    "receipts.create_receipt",
    "retention_policies.set_retention_policy",
}
"""What speaks of a customer and reads what is on every server."""

FUNCTIONS = [name for name in promises() if name not in WORKS_NOT]


class Told:
    """The shards that statements of a connection go to, by what Citus tells."""

    def __init__(self, conn):
        self.shards = set()
        self._groups = dict(
            conn.execute(
                "SELECT shardid, coalesce(colocationid || ' ' || shardminvalue, 'reference') "
                "FROM pg_dist_shard JOIN pg_dist_partition USING (logicalrelid)"
            ).fetchall()
        )
        conn.add_notice_handler(self._tell)
        conn.execute("SET citus.log_remote_commands = on; SET client_min_messages = log")

    def _tell(self, notice):
        if (notice.message_primary or "").startswith("issuing"):
            for number in re.findall(r"_(\d{6,})\b", notice.message_primary):
                if int(number) in self._groups:
                    self.shards.add(self._groups[int(number)])


def call(conn, name, given):
    """Call a function in a transaction that is rolled back; return the shards that it went to."""
    with conn.transaction(force_rollback=True):
        if name.startswith("legal_holds."):
            # One at a time: those who place holds on several shards wait for each other.
            (customer_id,) = conn.execute(
                "SELECT id FROM customers WHERE name = 'Customer 1'"
            ).fetchone()
            legal_holds.place_legal_hold(conn, customer_id=customer_id, id=ZERO_ID, reason="case 7")
        elif name in BEFORE and "event_seals" not in name:
            conn.execute(BEFORE[name].encode())
        told = Told(conn)
        result = function_of(name)(conn, **given)
    return result, told.shards - {"reference"}


def cases_of(sample, name):
    try:
        return arguments(sample, name, inspect.signature(function_of(name)).parameters)
    except LookupError as error:
        pytest.skip(f"the history has no row for it: {error}")


def is_of_one_customer(name):
    return "customer_id" in inspect.signature(function_of(name)).parameters


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if is_of_one_customer(name)])
def test_what_is_of_one_customer_goes_to_one_shard(conn, sample, name):
    for given in cases_of(sample, name):
        _, shards = call(conn, name, given)
        if name in ON_NO_SHARD:
            assert not shards
        elif name in ON_ALL_SHARDS:
            assert len(shards) == SHARDS
        else:
            assert len(shards) == 1, (given, shards)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if not is_of_one_customer(name)])
def test_what_is_of_the_platform_works(conn, sample, name):
    for given in cases_of(sample, name):
        call(conn, name, given)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in FUNCTIONS
        if is_of_one_customer(name)
        and name not in ON_NO_SHARD
        and inspect.signature(function_of(name)).parameters["customer_id"].default is None
    ],
)
def test_without_a_customer_all_shards_are_asked(conn, sample, name):
    for given in cases_of(sample, name):
        _, shards = call(conn, name, given | {"customer_id": None})
        assert len(shards) > 1, given


@pytest.mark.parametrize("name", WORKS_NOT)
def test_what_does_not_work_is_refused(conn, sample, name):
    for given in cases_of(sample, name):
        with pytest.raises((DatabaseError, psycopg.Error), match=re.escape(WORKS_NOT[name])):
            call(conn, name, given)
