"""Typed errors: what PostgreSQL refuses is told by a class, with the field in it."""

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from optiinfra_db import connect, connect_async, errors
from optiinfra_db.errors import (
    AlreadyExists,
    ConnectionLost,
    DatabaseError,
    IllegalTransition,
    ImmutableHistory,
    InvalidValue,
    NotFound,
    NotMigrated,
    OptiInfraError,
    PermissionDenied,
    ReadOnlyTransaction,
    StaleWriter,
    TenantMismatch,
    TransactionConflict,
    UnderLegalHold,
    translate,
    typed_errors,
)
from optiinfra_db.generated import (
    agent_metrics,
    agents,
    customers,
    partitions,
    workflow_executions,
    workflow_steps,
)
from optiinfra_db.generated.aio import agent_metrics as async_agent_metrics
from optiinfra_db.generated.aio import customers as async_customers
from optiinfra_db.generated.constraints import CONSTRAINTS, Check, ForeignKey, Unique
from optiinfra_db.generated.models import AgentType, StepStatus
from optiinfra_db.seed import NIMBUS, TUNING_RUN, seed

KINDS = {Unique: AlreadyExists, ForeignKey: NotFound, Check: InvalidValue}
SQLSTATES = {Unique: "23505", ForeignKey: "23503", Check: "23514"}


@pytest.fixture
def seeded(conn):
    """Provide sample data, an approval that is pending, and the retry of a run."""
    seed(conn)
    conn.execute(
        "INSERT INTO approvals (customer_id, recommendation_id) "
        "SELECT customer_id, id FROM recommendations LIMIT 1"
    )
    conn.execute(
        "INSERT INTO workflow_executions"
        " (customer_id, agent_id, workflow_type, attempt, retried_from_id) "
        "SELECT customer_id, agent_id, workflow_type, 2, id FROM workflow_executions "
        "WHERE status = 'failed' LIMIT 1"
    )
    conn.execute(
        "INSERT INTO event_seals (customer_id, seal_number, through_xact_id, through_id, event_ids,"
        " event_times, event_digests, events_hash, previous_hash, hash) "
        "SELECT id, 1, '1', id, ARRAY[id], ARRAY[now()], ARRAY[x], x, x, x "
        "FROM customers, sha256('x') AS x LIMIT 1"
    )
    conn.execute(
        "INSERT INTO legal_holds (customer_id, workflow_execution_id, reason) "
        "SELECT customer_id, id, 'case 7' FROM workflow_executions LIMIT 1"
    )
    conn.execute(
        "INSERT INTO retention_policies (table_name, customer_id, workflow_type, keep_for) "
        "SELECT 'workflow_executions', id, 'cost_analysis', '1 year' FROM customers LIMIT 1"
    )
    conn.execute(
        "INSERT INTO receipts (operation, row_counts, archive_url, archive_sha256) "
        "VALUES ('prune', '{}', 's3://a', sha256('x'))"
    )
    return conn


def raised(conn, sqlstate, message="some text", **fields):
    """Let the database raise an error, and return psycopg's."""
    given = {"errcode": sqlstate, "message": message} | fields
    options = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.SQL(name), value) for name, value in given.items()
    )
    command = sql.SQL("RAISE EXCEPTION USING {}").format(options).as_string(conn)
    with pytest.raises(psycopg.Error) as caught, conn.transaction():
        conn.execute(sql.SQL("DO {}").format(f"BEGIN {command}; END"))
    return caught.value


def refused(conn, table, **values):
    """Insert a copy of a row of sample data with other values, and return the typed error."""
    with pytest.raises(DatabaseError) as caught, conn.transaction(), typed_errors():
        insert_copy(conn, table, **values)
    return caught.value


def insert_copy(conn, table, **values):
    if table == "events":  # those about runs are for triggers to write
        values = {"subject_type": "run", "subject_id": uuid4()} | values
    conn.execute(
        sql.SQL(
            "INSERT INTO {0} SELECT (jsonb_populate_record(c, %s)).* FROM {0} AS c "
            "ORDER BY to_jsonb(c)->>'workflow_execution_id' = %s DESC, "
            "to_jsonb(c)->>'status' = 'pending' DESC LIMIT 1"
        ).format(sql.Identifier(table)),
        [json.dumps(values, default=str), str(TUNING_RUN)],
    )


FRESH = {
    "agent_id": uuid4,
    "api_key_hash": lambda: "\\x" + uuid4().hex * 2,
    "artifact_path": lambda: f"s3://{uuid4()}",
    "capability_name": lambda: str(uuid4()),
    "config_key": lambda: str(uuid4()),
    "email": lambda: f"{uuid4()}@example.com",
    "id": uuid4,
    "name": lambda: str(uuid4()),
    "recommendation_id": uuid4,
    "retried_from_id": lambda: None,
    "seal_number": lambda: 2,
    "step_order": lambda: 1000,
    "workflow_type": lambda: "health_check",
}


def fresh(table, *, but=None):
    """Return new values for the keys of a table but one."""
    keys = [key for key in Unique if key.table == table and key is not but]
    same = {but.field} if but else set()
    return {key.field: FRESH[key.field]() for key in keys if key.field not in same}


# The generated constants


CATALOGUE = """
SELECT conname, relname, contype::text, array(
    SELECT attname::text
    FROM unnest(conkey) WITH ORDINALITY AS k (attnum, place)
    INNER JOIN pg_attribute USING (attnum)
    WHERE attrelid = conrelid
    ORDER BY place
)
FROM pg_constraint
INNER JOIN pg_class ON conrelid = pg_class.oid
WHERE
    relnamespace = current_schema()::regnamespace
    AND NOT relispartition
    AND conparentid = 0
    AND contype != 'n'
    AND relname !~ '^_?yoyo'
"""


def test_every_constraint_of_the_database_has_a_constant(conn):
    found = {name: rest for name, *rest in conn.execute(CATALOGUE)}
    indexes = conn.execute(
        """
        SELECT index.relname
        FROM pg_index
        INNER JOIN pg_class AS index ON indexrelid = index.oid
        INNER JOIN pg_class AS tbl ON indrelid = tbl.oid
        WHERE
            indisunique
            AND tbl.relnamespace = current_schema()::regnamespace
            AND NOT tbl.relispartition
            AND tbl.relname !~ '^_?yoyo'
        """
    )
    assert {name for (name,) in indexes} == set(Unique)
    assert {name for name, rest in found.items() if rest[1] == "f"} == set(ForeignKey)
    assert {name for name, rest in found.items() if rest[1] == "c"} == set(Check)
    assert {rest[1] for rest in found.values()} == {"c", "f", "p", "u"}
    for name, (table, _, columns) in found.items():
        assert (CONSTRAINTS[name].table, CONSTRAINTS[name].columns) == (table, tuple(columns))
    assert Unique.CUSTOMERS_EMAIL_KEY.columns == ("email",)
    assert Unique.APPROVALS_RECOMMENDATION_ID_PENDING_KEY.table == "approvals"


def test_a_constant_is_its_name():
    assert Unique.CUSTOMERS_PKEY == "customers_pkey"
    assert CONSTRAINTS["customers_pkey"] is Unique.CUSTOMERS_PKEY
    assert pickle.loads(pickle.dumps(Check.AGENTS_NAME_CHECK)) is Check.AGENTS_NAME_CHECK
    assert all(known.name == known.value.upper() for known in CONSTRAINTS.values())
    assert ForeignKey.APPROVALS_RECOMMENDATION_ID_FKEY.references == "recommendations"
    assert Check.WORKFLOW_STEPS_STEP_ORDER_CHECK.condition == "step_order >= 1"


def test_every_constraint_becomes_a_typed_error_with_its_field(conn):
    for name, constraint in CONSTRAINTS.items():
        kind = type(constraint)
        cause = raised(conn, SQLSTATES[kind], constraint=name, table=constraint.table)
        error = translate(cause)
        assert type(error) is KINDS[kind]
        assert error.constraint is constraint
        assert error.table == constraint.table
        assert error.field == constraint.field
        assert error.field in constraint.columns
        assert f"{constraint.table}.{constraint.field}" in str(error)


# What the database refuses


@pytest.mark.parametrize("key", Unique)
def test_a_second_row_with_a_key_already_exists(seeded, key):
    error = refused(seeded, key.table, **fresh(key.table, but=key))
    assert type(error) is AlreadyExists
    assert error.constraint is key
    assert (error.sqlstate, error.table, error.field) == ("23505", key.table, key.field)
    assert "is there already" in str(error)
    assert isinstance(error.__cause__, psycopg.errors.UniqueViolation)


@pytest.mark.parametrize("key", ForeignKey)
def test_a_reference_to_nothing_is_not_found(seeded, key):
    agent = agents.upsert_agent(seeded, type=AgentType.COST, name="spare", version="1")
    nowhere = uuid4()
    values = {
        other.field: None
        for other in ForeignKey
        if other.table == key.table and other.field in {"retried_from_id", "workflow_execution_id"}
        if key.table not in {"workflow_steps", "workflow_artifacts"}
    }
    values |= fresh(key.table)
    if "agent_id" in values or any(
        other.table == key.table and other.field == "agent_id" for other in ForeignKey
    ):
        values["agent_id"] = agent.id
    if key is ForeignKey.AGENT_STATES_CURRENT_WORKFLOW_ID_FKEY:
        values["current_workflow_customer_id"] = nowhere
    values[key.field] = nowhere

    error = refused(seeded, key.table, **values)

    assert type(error) is NotFound
    assert error.constraint is key
    assert (error.sqlstate, error.table, error.field) == ("23503", key.table, key.field)
    assert f"{key.references} has no row for" in str(error)
    assert str(nowhere) in str(error)


BAD = {
    Check.AGENT_CONFIGS_CONFIG_VALUE_CHECK: {"config_type": "integer", "config_value": "one"},
    Check.AGENT_METRICS_METRIC_VALUE_CHECK: {"metric_value": "NaN"},
    Check.AGENT_METRICS_RECORDED_AT_CHECK: {"recorded_at": "infinity"},
    Check.API_KEYS_API_KEY_HASH_CHECK: {"api_key_hash": "\\x00"},
    Check.API_KEYS_EXPIRES_AT_CHECK: {"expires_at": "infinity"},
    Check.API_KEYS_LAST_USED_AT_CHECK: {"last_used_at": "-infinity"},
    Check.API_KEYS_REVOKED_AT_CHECK: {"revoked_at": "infinity"},
    Check.APPROVALS_APPROVED_BY_CHECK: {"approved_by": "me"},
    Check.APPROVALS_DECIDED_AT_CHECK: {"decided_at": "2026-01-01"},
    Check.CUSTOMERS_EMAIL_CHECK: {"email": "nobody"},
    Check.EVENT_SEALS_SEAL_NUMBER_CHECK: {"seal_number": 0},
    Check.EVENTS_CREATED_AT_CHECK: {"created_at": "infinity"},
    Check.EVENTS_SUBJECT_ID_CHECK: {"subject_type": "run", "subject_id": None},
    Check.OPTIMIZATIONS_PROGRESS_CHECK: {"progress": 101},
    Check.RECOMMENDATIONS_CONFIDENCE_SCORE_CHECK: {"confidence_score": 2},
    Check.RECOMMENDATIONS_ESTIMATED_SAVINGS_CHECK: {"estimated_savings": "NaN"},
    Check.WORKFLOW_ARTIFACTS_ARTIFACT_SIZE_BYTES_CHECK: {"artifact_size_bytes": -1},
    Check.WORKFLOW_ARTIFACTS_SHA256_CHECK: {"sha256": "\\x00"},
    Check.WORKFLOW_EXECUTIONS_ATTEMPT_CHECK: {"attempt": 0},
    Check.WORKFLOW_EXECUTIONS_COMPLETED_AT_CHECK: {
        "status": "completed",
        "completed_at": None,
        "started_at": "2026-01-01",
        "error_details": None,
    },
    Check.WORKFLOW_EXECUTIONS_ERROR_DETAILS_CHECK: {
        "status": "failed",
        "started_at": "2026-01-01",
        "completed_at": "2026-01-02",
        "error_details": None,
    },
    Check.WORKFLOW_EXECUTIONS_STARTED_AT_CHECK: {
        "status": "running",
        "started_at": None,
        "completed_at": None,
        "error_details": None,
    },
    Check.WORKFLOW_STEPS_MAX_RETRIES_CHECK: {"retry_count": -1, "max_retries": -1},
    Check.WORKFLOW_STEPS_RETRY_COUNT_CHECK: {"retry_count": 4, "max_retries": 3},
    Check.WORKFLOW_STEPS_STEP_ORDER_CHECK: {"step_order": 0},
}
for check in Check:
    if check.condition == f"jsonb_typeof({check.field}) = 'object'::text":
        BAD[check] = {check.field: []}
    elif check.condition == f"jsonb_typeof({check.field}) = 'array'::text":
        BAD[check] = {check.field: {}}
    elif check.condition.startswith(f"char_length({check.field}) >= 1"):
        BAD.setdefault(check, {check.field: ""})


@pytest.mark.parametrize("check", BAD)
def test_a_value_that_breaks_a_check_is_invalid(seeded, check):
    error = refused(seeded, check.table, **fresh(check.table) | BAD[check])
    assert type(error) is InvalidValue
    assert error.constraint is check
    assert (error.sqlstate, error.table, error.field) == ("23514", check.table, check.field)
    assert check.condition in str(error)
    if check.field == "api_key_hash":
        assert error.detail is None
    else:
        assert error.detail.startswith("Failing row contains")
        assert error.detail not in str(error)  # a payload is not for logs


def test_an_error_says_what_where_with_what_value_and_what_to_do(conn):
    customers.create_customer(conn, name="A", email="a@b", api_key_hash=bytes(32))
    with pytest.raises(AlreadyExists) as caught, conn.transaction():
        customers.create_customer(conn, name="B", email="A@B", api_key_hash=bytes(31) + b"1")
    assert str(caught.value) == (
        "customers.email: a row with lower(email) = a@b is there already (customers_email_key). "
        "Read the row that is there, or write another value."
    )


def test_a_missing_value_is_named_by_its_column(conn):
    with pytest.raises(InvalidValue) as missing, conn.transaction():
        customers.create_customer(conn, name=None, email="c@d", api_key_hash=bytes(32))
    assert (missing.value.table, missing.value.field) == ("customers", "name")
    assert str(missing.value).startswith("customers.name: a value is required")
    with pytest.raises(InvalidValue) as of_partition, conn.transaction(), typed_errors():
        conn.execute("INSERT INTO events (customer_id, event_type) VALUES (NULL, 'x')")
    assert (of_partition.value.table, of_partition.value.field) == ("events", "customer_id")


@pytest.mark.parametrize(
    ("command", "parameter", "says"),
    [
        ("SELECT $1::uuid", "abc", r'uuid: "abc" \(parameter \$1 of the query\)'),
        ("SELECT $1::int", "99999999999", "99999999999.* out of range"),
        ("SELECT $1::timestamptz", "2026-13-01", "2026-13-01"),
        ("SELECT $1::timestamptz", "yesterday week", "yesterday week"),
        ("SELECT $1::text::numeric(3, 2)", "100", "numeric field overflow"),
        ("SELECT $1::text::varchar(1)::char(1), $1::name, repeat($1, 2000000000)", "a", "too"),
        ("SELECT $1::jsonb", '{"a": "\\u0000"}', "cannot be converted to text"),
        ("SELECT $1::text", "a\0b", "NUL"),
        ("SELECT $1::agent_type", "none", "none"),
        ("SELECT jsonb_array_length($1::jsonb)", "[" * 100_000, "depth limit"),
    ],
)
def test_data_that_its_type_does_not_take_is_invalid(conn, command, parameter, says):
    with pytest.raises(InvalidValue, match=says) as caught, typed_errors():
        psycopg.RawCursor(conn).execute(command, [parameter])
    assert isinstance(caught.value.__cause__, psycopg.Error)


def test_a_negative_limit_is_one_of_max_rows(conn):
    with pytest.raises(InvalidValue, match=r"max_rows: LIMIT must not be negative") as caught:
        customers.list_customers(conn, max_rows=-1)
    assert caught.value.field == "max_rows"


def test_a_time_that_python_cannot_hold_was_written_all_the_same(conn):
    with pytest.raises(InvalidValue, match=r"correct it there") as caught, typed_errors():
        conn.execute("SELECT 'infinity'::timestamptz").fetchone()
    assert "Nothing was written" not in str(caught.value)


def test_the_database_may_name_the_field_itself(conn):
    error = translate(raised(conn, "22023", "must be more", column="months_ahead", hint="Use 1."))
    assert (type(error), error.field, error.hint) == (InvalidValue, "months_ahead", "Use 1.")
    assert str(error) == f"months_ahead: must be more. Use 1. {InvalidValue.advice}"
    with pytest.raises(InvalidValue, match="from 0 to 120, and is -1"):
        partitions.ensure_partitions(conn, months_ahead=-1)


def test_a_copied_value_is_named_by_its_column(conn):
    with (
        pytest.raises(InvalidValue) as caught,
        typed_errors(),
        conn.cursor() as cursor,
        cursor.copy("COPY agents (name, type, version) FROM STDIN") as copy,
    ):
        copy.write(b"a\tnone\t1\n")
    assert caught.value.field == "type"


@pytest.mark.parametrize(
    ("sqlstate", "message", "expected"),
    [
        ("OI001", "run is completed", IllegalTransition),
        ("OI002", "step was retried", StaleWriter),
        ("OI003", "a row stays", TenantMismatch),
        ("OI004", "final", ImmutableHistory),
        ("OI005", "a legal hold", UnderLegalHold),
        ("42501", 'new row violates row-level security policy for table "x"', TenantMismatch),
        ("42501", "permission denied for table x", PermissionDenied),
        ("25006", "cannot execute INSERT in a read-only transaction", ReadOnlyTransaction),
        ("40001", "could not serialize access", TransactionConflict),
        ("40P01", "deadlock detected", TransactionConflict),
        ("57P01", "terminating connection", ConnectionLost),
        ("57P02", "crash", ConnectionLost),
        ("57P03", "starting up", ConnectionLost),
        ("08006", "failure", ConnectionLost),
        ("57014", "canceling statement due to user request", None),
        ("55P03", "canceling statement due to lock timeout", None),
        ("42601", "syntax error", None),
    ],
)
def test_what_the_server_raises_is_told_by_its_code(conn, sqlstate, message, expected):
    cause = raised(conn, sqlstate, message, detail="The detail.", table="runs", column="status")
    error = translate(cause)
    if expected is None:
        assert error is None
        return
    assert type(error) is expected
    assert (error.sqlstate, error.table, error.field) == (sqlstate, "runs", "status")
    assert str(error) == f"runs.status: {message}. The detail. {expected.advice}"
    advised = translate(raised(conn, sqlstate, message, hint="Do so."))
    assert advised.hint == "Do so."
    if sqlstate.startswith("OI"):
        assert str(advised) == f"{message}. Do so."


def test_row_level_security_is_a_matter_of_tenants(seeded):
    seeded.execute(
        "CREATE ROLE errors_tenant; GRANT INSERT ON agents TO errors_tenant;"
        "ALTER TABLE agents ENABLE ROW LEVEL SECURITY; SET LOCAL ROLE errors_tenant"
    )
    with pytest.raises(TenantMismatch), typed_errors():
        seeded.execute("INSERT INTO agents (type, name, version) VALUES ('cost', 'x', '1')")


def test_a_deadlock_is_a_conflict_of_transactions(database_url):
    with connect(database_url) as one, connect(database_url) as other:
        ids = [
            agents.upsert_agent(one, type=AgentType.COST, name=name, version="1").id
            for name in ("a", "b")
        ]
        for conn, own in zip((one, other), ids, strict=True):
            conn.autocommit = False
            agents.record_agent_heartbeat(conn, id=own)
        with ThreadPoolExecutor(2) as threads:
            calls = [
                threads.submit(agents.record_agent_heartbeat, conn, id=of_the_other)
                for conn, of_the_other in zip((one, other), reversed(ids), strict=True)
            ]
        (error,) = [call.exception() for call in calls if call.exception()]
    assert type(error) is TransactionConflict
    assert error.sqlstate == "40P01"
    assert str(error).endswith(TransactionConflict.advice)


def test_a_lost_connection_says_that_the_outcome_is_not_known(database_url):
    with connect(database_url) as conn:
        kill(database_url, conn)
        for sqlstate in ("57P01", None):  # the server says goodbye; then there is none
            with pytest.raises(ConnectionLost, match="took effect is not known") as caught:
                customers.get_customer(conn, id=uuid4())
            assert caught.value.sqlstate == sqlstate
            assert caught.value.exit_code == 3


async def test_a_lost_asynchronous_connection_says_so_too(database_url):
    async with await connect_async(database_url) as conn:
        kill(database_url, conn)
        for sqlstate in ("57P01", None):
            with pytest.raises(ConnectionLost, match="took effect is not known") as caught:
                await async_customers.get_customer(conn, id=uuid4())
            assert caught.value.sqlstate == sqlstate


def kill(url, conn):
    with connect(url) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [conn.info.backend_pid])


def test_a_database_without_the_tables_is_not_migrated(empty_database_url):
    with connect(empty_database_url) as conn:
        with pytest.raises(NotMigrated, match="run optiinfra-db migrate") as caught:
            customers.list_customers(conn, max_rows=1)
        assert caught.value.exit_code == 4
        with pytest.raises(NotMigrated):
            partitions.ensure_partitions(conn, months_ahead=1)


def test_a_key_that_rows_point_at_is_history(seeded):
    with pytest.raises(ImmutableHistory, match="still referenced") as caught, typed_errors():
        seeded.execute("UPDATE agents SET id = uuidv7()")
    assert caught.value.sqlstate == "23503"


def test_what_the_triggers_refuse_is_typed(seeded):
    of_run = {"customer_id": NIMBUS, "workflow_execution_id": TUNING_RUN}
    steps = workflow_steps.list_workflow_steps(seeded, **of_run)
    running = next(step for step in steps if step.status is StepStatus.RUNNING)
    with pytest.raises(IllegalTransition) as ended, seeded.transaction():
        workflow_executions.complete_workflow_execution(
            seeded, customer_id=NIMBUS, id=TUNING_RUN, attempt=1
        )
    assert (ended.value.table, ended.value.field) == ("workflow_executions", "status")
    with pytest.raises(StaleWriter) as stale, seeded.transaction():
        workflow_steps.complete_workflow_step(
            seeded, **of_run, id=running.id, retry_count=running.retry_count - 1
        )
    assert stale.value.table == "workflow_steps"
    assert stale.value.hint in str(stale.value)
    for expected, command in (
        (IllegalTransition, "UPDATE workflow_executions SET status = 'pending'"),
        (ImmutableHistory, "UPDATE workflow_executions SET metadata = '{\"a\": 1}'"),
        (ImmutableHistory, "UPDATE events SET severity = 'error'"),
        (TenantMismatch, "UPDATE recommendations SET customer_id = uuidv7()"),
    ):
        with pytest.raises(expected) as caught, seeded.transaction(), typed_errors():
            seeded.execute(command)
        assert caught.value.table == command.split()[1]


# Where they come from


@pytest.mark.parametrize("flavour", ["sync", "async"])
async def test_copies_raise_them_too(database_url, flavour):
    agent_id = UUID(int=0)
    row = agent_metrics.CopyAgentMetricsParams(
        agent_id=agent_id,
        metric_name="x",
        recorded_at=datetime(2026, 1, 1, tzinfo=UTC),
        metric_value=1.0,
        metric_type="gauge",
        tags={},
    )
    async with await connect_async(database_url) as aconn:
        with connect(database_url) as conn:

            async def copy(rows):
                if flavour == "sync":
                    return agent_metrics.copy_agent_metrics(conn, rows)
                return await async_agent_metrics.copy_agent_metrics(aconn, rows)

            with pytest.raises(NotFound) as caught:
                await copy([row])
            assert caught.value.constraint is ForeignKey.AGENT_METRICS_AGENT_ID_FKEY
            with pytest.raises(InvalidValue) as invalid:
                await copy([replace(row, metric_name="")])
            assert invalid.value.field == "metric_name"
            with pytest.raises(InvalidValue, match="0x00") as nul:
                await copy([replace(row, metric_name="\0")])
            assert nul.value.field == "metric_name"


def test_what_is_no_matter_of_the_database_passes():
    with pytest.raises(KeyError), typed_errors():
        raise KeyError
    with pytest.raises(OptiInfraError) as caught, typed_errors():
        raise errors.InvalidURL("x")
    assert type(caught.value) is errors.InvalidURL
    with pytest.raises(psycopg.InterfaceError), typed_errors():
        raise psycopg.InterfaceError
    for error in (
        psycopg.errors.PipelineAborted("aborted"),
        psycopg.ProgrammingError("cannot adapt"),
        psycopg.errors.QueryCanceled("x"),
    ):
        assert translate(error) is None
    assert (
        translate(psycopg.OperationalError("gone\n\tfor good"))
        .args[0]
        .startswith("gone for good. Whether")
    )
    with pytest.raises(AlreadyExists) as bare, typed_errors():
        raise psycopg.errors.UniqueViolation("no diagnostics, as from behind a proxy")
    assert (bare.value.constraint, bare.value.field, bare.value.sqlstate) == (None, None, "23505")


def test_a_constraint_of_a_table_of_others_stays_a_name(conn):
    conn.execute("CREATE TABLE of_others (a int CONSTRAINT of_others_default_check CHECK (a > 0))")
    with pytest.raises(InvalidValue) as caught, typed_errors():
        conn.execute("INSERT INTO of_others VALUES (0)")
    assert (caught.value.constraint, caught.value.field) == ("of_others_default_check", None)
    assert caught.value.table == "of_others"


def subclasses(cls):
    return {sub for direct in cls.__subclasses__() for sub in (direct, *subclasses(direct))}


def test_errors_survive_pickling_and_say_what_to_do():
    for cls in subclasses(DatabaseError):
        assert cls.__doc__
        assert cls.advice
        assert cls.exit_code
        error = cls("what", sqlstate="23505", constraint=Unique.AGENTS_PKEY, field="id")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is cls
        assert str(again) == "what"
        assert vars(again) == vars(error)
        assert again.constraint is Unique.AGENTS_PKEY


def test_importing_the_package_does_not_import_the_constants():
    check = (
        "import sys, optiinfra_db.generated.agents;"
        "sys.exit('optiinfra_db.generated.constraints' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
