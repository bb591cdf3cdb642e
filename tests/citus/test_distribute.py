"""A database that is distributed keeps what it had, and what it promised."""

import hashlib
from datetime import UTC, datetime

import psycopg
import pytest

from optiinfra_db import connect, tenant
from optiinfra_db.distribute import Layout, apply, distribute, layout, misplaced
from optiinfra_db.doctor import examine
from optiinfra_db.errors import (
    AlreadyExists,
    CitusMissing,
    IllegalTransition,
    ImmutableHistory,
    InvalidValue,
    MigrationFailed,
    NotFound,
    NotMigrated,
    StaleWriter,
    TenantMismatch,
)
from optiinfra_db.generated import (
    agent_configs,
    agents,
    api_keys,
    customers,
    doctor,
    events,
    partitions,
    recommendations,
    workflow_executions,
    workflow_steps,
)
from optiinfra_db.generated.models import AgentType, ConfigType, StepStatus, WorkflowType
from optiinfra_db.migrate import MIGRATIONS_DIR, migrate
from optiinfra_db.seed import seed
from optiinfra_db.workflows import record_workflow

from ..cli.command import run

TENANTS = {
    "api_keys", "approvals", "customers", "event_seals", "events", "legal_holds",
    "optimizations", "recommendations", "workflow_artifacts", "workflow_executions",
    "workflow_steps",
}  # fmt: skip


def contents(conn):
    """Return the rows of every table, without what is set anew when a database is distributed."""
    tables = [
        name
        for (name,) in conn.execute(
            "SELECT relation_name FROM access_rules JOIN pg_class "
            "ON oid = to_regclass(relation_name) AND relkind IN ('r', 'p') ORDER BY place"
        )
    ]
    return {
        name: sorted(
            row
            for (row,) in conn.execute(f"SELECT (to_jsonb(t) - 'xact_id')::text FROM {name} AS t")
        )
        for name in tables
    }


def test_the_command_distributes_a_migrated_database_once(cluster_url):
    result = run("distribute", "--yes", url=cluster_url)
    assert (result.returncode, "Run optiinfra-db migrate" in result.stderr) == (4, True)
    with pytest.raises(NotMigrated, match=r"0001\.core-tables"):
        distribute(cluster_url)

    migrate(cluster_url)
    assert run("status", url=cluster_url).stdout.splitlines()[-1] == "plain: one server"
    with connect(cluster_url) as conn:
        seed(conn)
        before = contents(conn)
    result = run("distribute", "--yes", "--shards", "4", url=cluster_url)
    assert (result.returncode, result.stdout) == (
        0,
        "distributed by Citus: 2 servers, 4 shards\n",
    ), result.stderr
    assert "Distributing workflow_steps" in result.stderr
    result = run("distribute", "--yes", url=cluster_url)
    assert (result.returncode, result.stdout) == (0, "")
    assert "distributed already" in result.stderr
    assert run("status", url=cluster_url).stdout.splitlines()[-1].startswith("distributed by")
    result = run("doctor", url=cluster_url)
    assert (result.returncode, "2 servers, 4 shards" in result.stderr) == (0, True), result.stdout

    with connect(cluster_url) as conn:
        assert contents(conn) == before
        assert layout(conn) == Layout(servers=2, shards=4)
        laid_out = conn.execute(
            "SELECT table_name::text, citus_table_type, distribution_column, colocation_id "
            "FROM citus_tables WHERE table_name::text !~ '_(default|2[0-9]+_[0-9]+)$'"
        ).fetchall()
        of_customers = {row for row in laid_out if row[0] in TENANTS}
        assert {row[1] for row in of_customers} == {"distributed"}
        assert len({row[3] for row in of_customers}) == 1
        assert {row[0]: row[2] for row in of_customers} == {
            name: "id" if name == "customers" else "customer_id" for name in TENANTS
        }
        assert {row[0] for row in laid_out if row[1] == "reference"} == {
            "agents", "agent_states", "agent_configs", "agent_capabilities",
            "receipts", "retention_policies",
        }  # fmt: skip
        assert [row[2] for row in laid_out if row[0] == "agent_metrics"] == ["agent_id"]
        # No rows are left in the tables themselves, on the coordinator.
        (size,) = conn.execute("SELECT pg_relation_size('workflow_steps')").fetchone()
        assert size == 0


def test_a_cluster_without_servers_is_refused(cluster_url):
    migrate(cluster_url)
    with connect(cluster_url) as conn:
        conn.execute(
            "SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', false)"
            " FROM pg_dist_node"
        )
    with pytest.raises(CitusMissing, match="citus_add_node"):
        distribute(cluster_url)


def test_migrate_goes_on_where_it_can_and_says_where_it_cannot(cluster_url, tmp_path):
    migrate(cluster_url)
    distribute(cluster_url, shards=4)
    assert migrate(cluster_url).applied == []

    for path in MIGRATIONS_DIR.glob("*.sql"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    last = max(path.stem for path in MIGRATIONS_DIR.glob("*.sql") if "rollback" not in path.stem)
    (tmp_path / "0098.add-region.sql").write_text(
        f"-- depends: {last}\nSET LOCAL lock_timeout = '5s';\n"
        "ALTER TABLE workflow_executions ADD COLUMN region text;\n"
        "CREATE INDEX workflow_executions_region_idx ON workflow_executions (customer_id, region);"
    )
    assert migrate(cluster_url, migrations_dir=tmp_path).applied == ["0098.add-region"]
    with connect(cluster_url) as conn:
        assert conn.execute("SELECT count(region) FROM workflow_executions").fetchone() == (0,)

    # A new table is distributed by the rule that comes with it, once the migrations are through.
    with connect(cluster_url) as conn:
        (rules,) = conn.execute("SELECT pg_get_viewdef('access_rules')").fetchone()
    (tmp_path / "0099.add-notes.sql").write_text(
        "-- depends: 0098.add-region\n"
        "CREATE TABLE notes (customer_id uuid, id uuid, PRIMARY KEY (customer_id, id), "
        "CONSTRAINT notes_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customers (id));\n"
        "CREATE OR REPLACE VIEW access_rules AS "
        "SELECT 99 AS place, 'notes' AS relation_name, 'customer_id' AS customer_column, "
        "NULL AS service, NULL AS tenant, NULL AS reader UNION ALL "
        f"({rules.rstrip(';')});"
    )
    migrate(cluster_url, migrations_dir=tmp_path)
    with connect(cluster_url) as conn:
        assert [name for name, _ in misplaced(conn)] == ["notes"]
        assert "layout" in {finding.check for finding in examine(conn)}
        apply(conn)
        assert misplaced(conn) == []
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            conn.execute("INSERT INTO notes VALUES (uuidv7(), uuidv7())")

    (tmp_path / "0100.add-words.sql").write_text(
        "-- depends: 0099.add-notes\n"
        "ALTER TABLE customers ADD COLUMN words text;\n"
        "CREATE UNIQUE INDEX customers_words_key ON customers (words);"
    )
    with pytest.raises(MigrationFailed, match="Nothing of it was kept"):
        migrate(cluster_url, migrations_dir=tmp_path)
    with connect(cluster_url) as conn, pytest.raises(psycopg.errors.UndefinedColumn):
        conn.execute("SELECT words FROM customers")


@pytest.fixture
def customer(conn):
    number = hashlib.sha256(str(datetime.now(UTC)).encode()).digest()
    customer = customers.create_customer(
        conn, name="Nova", email=f"{number.hex()[:20]}@example.com", api_key_hash=number
    )
    yield customer
    customers.delete_customer(conn, id=customer.id)


@pytest.fixture
def agent(conn):
    return agents.upsert_agent(conn, type=AgentType.COST, name="cost-citus", version="1")


def make_run(conn, customer, agent, **given):
    values = {"workflow_type": WorkflowType.COST_ANALYSIS, "step_names": ["collect", "report"]}
    return workflow_executions.create_workflow_execution(
        conn, customer_id=customer.id, agent_id=agent.id, **values | given
    )


def events_of(conn, customer):
    found = events.list_events(conn, customer_id=customer.id, max_rows=99)
    return [event.event_type for event in reversed(found)]


def test_a_recorded_run_leaves_the_whole_audit_log(conn, customer, agent, tmp_path):
    with record_workflow(
        conn,
        customer_id=customer.id,
        agent_id=agent.id,
        workflow_type=WorkflowType.COST_ANALYSIS,
        steps=["collect", "report"],
        store=str(tmp_path),
    ) as recorded:
        for name in ("collect", "report"):
            with recorded.step(name) as step:
                step.output_data = {"rows": 1}
    assert events_of(conn, customer) == [
        "workflow_execution.pending",
        "workflow_execution.running",
        "workflow_step.running",
        "workflow_step.completed",
        "workflow_step.running",
        "workflow_step.completed",
        "workflow_execution.completed",
    ]
    assert examine(conn, since=customer.created_at) == []


def test_the_state_machines_hold_on_the_shards(conn, customer, agent):
    made = make_run(conn, customer, agent)
    key = {"customer_id": customer.id, "id": made.id}
    step = workflow_executions.begin_workflow_execution(conn, **key)
    of_step = {
        "customer_id": customer.id, "workflow_execution_id": made.id, "id": step.id,
    }  # fmt: skip
    with pytest.raises(IllegalTransition, match="open steps"):
        workflow_executions.complete_workflow_execution(conn, **key, attempt=1)
    with pytest.raises(StaleWriter):
        workflow_steps.complete_workflow_step(conn, **of_step, retry_count=7)
    failed = workflow_steps.fail_workflow_step(
        conn, **of_step, retry_count=0, retryable=True, error_details={"message": "quota"}
    )
    assert (failed.status, failed.retry_count) == (StepStatus.RETRYING, 1)
    update = "UPDATE workflow_steps SET {} WHERE customer_id = %s AND workflow_execution_id = %s"
    for change, code in (
        ("retry_count = 3", "OI004"),
        ("created_at = now()", "OI004"),
        ("status = 'pending', next_attempt_at = NULL", "OI001"),
    ):
        with pytest.raises(psycopg.Error) as refused:
            conn.execute(update.format(change), [customer.id, made.id])
        assert refused.value.sqlstate == code
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="partition value"):
        conn.execute(
            "UPDATE workflow_executions SET customer_id = %s WHERE customer_id = %s",
            [agent.id, customer.id],
        )
    workflow_executions.cancel_workflow_execution(conn, **key, reason="enough")
    steps = workflow_steps.list_workflow_steps(
        conn, customer_id=customer.id, workflow_execution_id=made.id
    )
    assert [step.status for step in steps] == [StepStatus.SKIPPED, StepStatus.SKIPPED]
    with pytest.raises(psycopg.Error) as refused:
        conn.execute("DELETE FROM events WHERE customer_id = %s", [customer.id])
    assert refused.value.sqlstate == "OI004"
    retried = workflow_executions.retry_workflow_execution(conn, **key)
    assert (retried.attempt, retried.retried_from_id) == (2, made.id)


def test_errors_keep_their_class(conn, customer, agent):
    with pytest.raises(NotFound):
        workflow_executions.create_workflow_execution(
            conn,
            customer_id=customer.id,
            agent_id=customer.id,
            workflow_type=WorkflowType.COST_ANALYSIS,
            step_names=[],
        )
    made = make_run(conn, customer, agent)
    of_run = {"customer_id": customer.id, "workflow_execution_id": made.id}
    with pytest.raises(AlreadyExists):
        workflow_steps.add_workflow_step(conn, **of_run, step_name="again", step_order=1)
    with pytest.raises(InvalidValue):
        workflow_steps.add_workflow_step(conn, **of_run, step_name="")
    with pytest.raises(InvalidValue):
        agent_configs.upsert_agent_config(
            conn,
            agent_id=agent.id,
            config_key="limit",
            config_value="many",
            config_type=ConfigType.INTEGER,
        )
    with pytest.raises(ImmutableHistory):
        events.create_event(
            conn,
            customer_id=customer.id,
            event_type="x",
            subject_type="workflow_step",
            subject_id=made.id,
            data={"from": "pending"},
        )


def test_links_to_a_deleted_run_are_cleared(conn, customer, agent):
    first = make_run(conn, customer, agent)
    key = {"customer_id": customer.id, "id": first.id}
    recommendation = recommendations.create_recommendation(
        conn,
        customer_id=customer.id,
        agent_id=agent.id,
        workflow_execution_id=first.id,
        type="kind",
        title="Title",
    )
    recommendations.reject_recommendation(conn, customer_id=customer.id, id=recommendation.id)
    workflow_executions.cancel_workflow_execution(conn, **key, reason="enough")
    retried = workflow_executions.retry_workflow_execution(conn, **key)
    assert workflow_executions.delete_workflow_execution(conn, **key) == 1
    left = workflow_executions.get_workflow_execution(conn, customer_id=customer.id, id=retried.id)
    assert left.retried_from_id is None
    found = recommendations.get_recommendation(conn, customer_id=customer.id, id=recommendation.id)
    assert found.workflow_execution_id is None


def test_a_customer_goes_with_everything(conn, customer, agent):
    made = make_run(conn, customer, agent)
    workflow_executions.begin_workflow_execution(conn, customer_id=customer.id, id=made.id)
    assert customers.delete_customer(conn, id=customer.id) == 1
    for table in TENANTS - {"customers"}:
        rows = conn.execute(
            f"SELECT count(*) FROM {table} WHERE customer_id = %s", [customer.id]
        ).fetchone()
        assert rows == (0,), table


def test_claims_go_by_customer(conn, distributed_url, customer, agent):
    made = [make_run(conn, customer, agent) for _ in range(3)]
    claimed = workflow_executions.claim_customer_workflow_executions(
        conn, agent_id=agent.id, customer_id=customer.id, max_rows=1
    )
    assert [run.id for run in claimed] == [made[0].id]
    with connect(distributed_url) as other, conn.transaction(), other.transaction():
        mine, theirs = (
            workflow_executions.claim_customer_workflow_executions(
                one, agent_id=agent.id, customer_id=customer.id, max_rows=1
            )
            for one in (conn, other)
        )
        assert [run.id for run in (*mine, *theirs)] == [made[1].id, made[2].id]


def test_an_api_key_opens_its_customer(conn, customer):
    digest = hashlib.sha256(customer.id.bytes).digest()
    key = api_keys.create_api_key(conn, customer_id=customer.id, api_key_hash=digest)
    found = api_keys.authenticate_api_key(conn, api_key_hash=digest)
    assert (found.customer_id, found.api_key_id, found.problem) == (customer.id, key.id, None)
    keys = {key.id: key for key in api_keys.list_api_keys(conn, customer_id=customer.id)}
    assert keys[key.id].last_used_at is not None
    api_keys.revoke_api_key(conn, customer_id=customer.id, id=key.id)
    found = api_keys.authenticate_api_key(conn, api_key_hash=digest)
    assert found.problem == "revoked"
    assert api_keys.authenticate_api_key(conn, api_key_hash=bytes(32)) is None


def test_a_tenant_sees_its_own_rows_only(conn, sample, customer, agent):
    make_run(conn, customer, agent)
    count = "SELECT count(*), count(DISTINCT customer_id) FROM {}"
    with tenant(conn, sample.customer):
        for table in ("workflow_executions", "workflow_steps", "events", "recommendations"):
            rows, owners = conn.execute(count.format(table)).fetchone()
            assert (rows > 0, owners) == (True, 1)
        found = workflow_executions.list_workflow_executions(
            conn, customer_id=customer.id, max_rows=9
        )
        assert found == []
    with pytest.raises(TenantMismatch), tenant(conn, sample.customer):
        make_run(conn, customer, agent)
    # A setting that does not reach the servers shows nothing, and not everything.
    with conn.transaction():
        conn.execute("SET LOCAL ROLE optiinfra_tenant")
        conn.execute("SELECT set_config('optiinfra.customer_id', %s, true)", [str(sample.customer)])
        assert conn.execute(count.format("workflow_executions")).fetchone() == (0, 0)


def test_the_actor_is_told_to_the_servers_by_set_local(conn, customer, agent):
    with conn.transaction():
        conn.execute("SET LOCAL citus.propagate_set_commands = 'local'")
        conn.execute("SET LOCAL optiinfra.actor = 'ada'")
        make_run(conn, customer, agent)
    (event,) = events.list_events(conn, customer_id=customer.id, max_rows=9)
    assert event.actor == "ada"


def test_months_are_made_and_filled_from_default(conn, customer):
    late = datetime(2001, 2, 3, tzinfo=UTC)
    events.create_event(conn, customer_id=customer.id, event_type="late", created_at=late)
    made = partitions.ensure_partitions(conn, months_ahead=5)
    assert "events_2001_02" in made
    assert len(made) > 1
    assert partitions.ensure_partitions(conn, months_ahead=5) == []
    count = "SELECT count(*) FROM {} WHERE customer_id = %s"
    for table, rows in (("events_2001_02", 1), ("events_default", 0)):
        assert conn.execute(count.format(table), [customer.id]).fetchone() == (rows,)
    assert doctor.find_missing_guards(conn) == []
