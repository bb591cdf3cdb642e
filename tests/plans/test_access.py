"""Under row-level security every query keeps its promise too, or is refused, as access_rules says.

As a member of optiinfra_service, and as the tenant whose rows it asks for.
"""

import pytest

from optiinfra_db.errors import PermissionDenied

from ..queries.database import customers_in
from .cases import BEFORE, FINDS_NOTHING, RUNS_ONCE
from .conftest import assert_kept
from .explain import promises

PROMISES = {name: promise for name, promise in promises().items() if promise}
REFUSED_TO_SERVICE = {
    "agents.delete_agent",
    "approvals.delete_approval",
    "customers.delete_customer",
    "event_seals.seal_events",
    "events.copy_events",
    "housekeeping.count_customer_rows",
    "legal_holds.place_legal_hold",
    "legal_holds.release_legal_hold",
    "optimizations.delete_optimization",
    "partitions.ensure_partitions",
    "receipts.create_receipt",
    "recommendations.delete_recommendation",
    "retention_policies.delete_retention_policy",
    "retention_policies.set_retention_policy",
    "workflow_artifacts.delete_workflow_artifact",
    "workflow_executions.delete_ended_workflow_executions",
    "workflow_executions.delete_workflow_execution",
}
REFUSED_TO_TENANTS = {
    *REFUSED_TO_SERVICE,
    "agents.fail_stale_agents",
    "agents.list_available_agents",
    "agents.record_agent_heartbeat",
    "agents.upsert_agent",
    "customers.create_customer",
    "customers.update_customer",
    "housekeeping.lock_customer",
    "legal_holds.list_legal_holds",
    "partitions.list_held_customers",
    "receipts.list_receipts",
    "retention_policies.list_retention_policies",
    "workflow_executions.list_prunable_workflow_executions",
    "monitoring.list_agent_workload",
    *(
        name
        for name in PROMISES
        if name.startswith(
            (
                "agent_capabilities.",
                "agent_configs.",
                "agent_metrics.",
                "agent_states.",
                "api_keys.",
            )
        )
    ),
}
SPANS_CUSTOMERS = {
    "doctor.find_states_unlike_audit_log",
    "doctor.find_times_out_of_order",
    "events.list_events_by_agent",
    "events.read_events",
}
"""What goes through the rows of all customers in an order in which those of one lie far apart."""

FINDS_NOTHING_OF_ITS_OWN = {"customers.get_customer_by_email"}
"""What is asked for another customer's row here."""

over_all_queries = pytest.mark.parametrize("name", sorted(PROMISES.keys() - RUNS_ONCE))


@pytest.fixture(scope="session")
def customers(largest, smallest):
    """Return who has work to do, and who has not."""
    return {True: largest.customer, False: smallest.customer}


@over_all_queries
@pytest.mark.parametrize("role", ["optiinfra_service", "optiinfra_tenant"])
def test_a_member_keeps_to_the_plan(name, role, observe, explainer, customers):
    promise = PROMISES[name]
    is_tenant = role == "optiinfra_tenant"
    for seen in observe(name):
        customer = customers[seen.has_work] if is_tenant else None
        call = (name, seen.mode, seen.arguments, BEFORE.get(name, ""))
        if name in (REFUSED_TO_TENANTS if is_tenant else REFUSED_TO_SERVICE):
            with pytest.raises(PermissionDenied):
                explainer.call(*call, role=role, customer_id=customer)
            continue
        result, own, nested = explainer.call(*call, role=role, customer_id=customer)
        if own.rows > seen.rows_bound or own.buffers > seen.buffers_bound:
            # What the calls before have written and rolled back lies in the way.
            explainer.vacuum()
            result, own, nested = explainer.call(*call, role=role, customer_id=customer)

        where = f"{seen.mode} plan with {seen.arguments}:{own.plan}"
        if is_tenant:
            assert customers_in(result) <= {customer}
            if name in SPANS_CUSTOMERS:
                continue
        may_be_empty = name in FINDS_NOTHING | FINDS_NOTHING_OF_ITS_OWN
        assert result or may_be_empty or not seen.result, f"nothing to do, {where}"
        assert_kept(promise, seen, own, nested, where)
