"""Every move that a row could make, by everyone who could make it, in every way there is in SQL.

The database keeps to the state machines, the audit log and the end of history for every writer: so
the same is tried as superuser, as owner and as a plain role, by UPDATE, by MERGE, by upsert, ...
"""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pytest_postgresql.janitor import DatabaseJanitor

from optiinfra_db import OptiInfraError, connect
from optiinfra_db.generated import approvals as approvals_module
from optiinfra_db.generated import optimizations as optimizations_module
from optiinfra_db.generated import recommendations as recommendations_module
from optiinfra_db.generated import workflow_executions, workflow_steps
from optiinfra_db.generated.models import ApprovalStatus, WorkflowStatus, WorkflowType

from .model_support import (
    ARROWS,
    ILLEGAL_TRANSITION,
    IMMUTABLE_HISTORY,
    LOCK_TIMEOUT,
    NO_PRIVILEGE,
    SERIALIZATION_FAILURE,
    STALE_WRITER,
    TENANT_MISMATCH,
    refused,
    sqlstate_of,
)

CREATED, STARTED, ENDED, UNDONE = (datetime(2020, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4))
ERROR = Jsonb({"type": "Oops", "message": "what went wrong"})
OPEN_RUN = [status for status, targets in ARROWS["workflow_executions"].items() if targets]
FINAL_RUN = [status for status, targets in ARROWS["workflow_executions"].items() if not targets]
OPEN_STEP = [status for status, targets in ARROWS["workflow_steps"].items() if targets]
FINAL_STEP = [status for status, targets in ARROWS["workflow_steps"].items() if not targets]
STATES = [(table, status) for table, arrows in ARROWS.items() for status in arrows]
FINAL_STATES = [(table, status) for table, status in STATES if not ARROWS[table][status]]
ALL_ARROWS = [
    (table, start, end)
    for table, arrows in ARROWS.items()
    for start, ends in arrows.items()
    for end in ends
]
PAYLOAD = {
    "workflow_executions": {"metadata": Jsonb({"changed": True})},
    "workflow_steps": {"metadata": Jsonb({"changed": True})},
    "recommendations": {"data": Jsonb({"changed": True})},
    "approvals": {"comment": "changed"},
    "optimizations": {"result": Jsonb({"changed": True})},
}
LINKS = {
    "workflow_executions": "retried_from_id",
    "recommendations": "workflow_execution_id",
    "optimizations": "workflow_execution_id",
}


def change_of(table, row, status):
    """Return the columns that a row changes with its status."""
    values = state_of(table, status)
    if table == "workflow_steps" and status == "retrying" != row["status"]:
        values["retry_count"] = row["retry_count"] + 1
    return values


def state_of(table, status):
    """Return the columns that go with a status, so that no CHECK has a say before the trigger."""
    has_started = status not in {"pending", "queued"}
    started = STARTED if has_started else None
    is_over = status in {"completed", "failed", "cancelled", "timeout", "skipped", "rolled_back"}
    ended = ENDED if is_over else None
    has_failed = status in {"failed", "timeout", "retrying"}
    state = {
        "workflow_executions": {
            "started_at": started,
            "completed_at": ended,
            "error_details": ERROR if has_failed else None,
        },
        "workflow_steps": {
            "started_at": started,
            "completed_at": ended,
            "error_details": ERROR if has_failed else None,
            "next_attempt_at": ENDED if status == "retrying" else None,
        },
        "recommendations": {"approved_at": started, "executed_at": ended},
        "approvals": {
            "approved_by": "ada" if has_started else None,
            "decided_at": ENDED if has_started else None,
        },
        "optimizations": {
            "started_at": started,
            "completed_at": ended,
            "rolled_back_at": UNDONE if status == "rolled_back" else None,
            "error": "what went wrong" if has_failed else None,
        },
    }
    return {"status": status} | state[table]


def assignments(values, source=None):
    """Return `a = $1, b = $2`, or `a = source.a, b = source.b`."""
    return sql.SQL(", ").join(
        sql.SQL("{} = {}").format(
            sql.Identifier(name),
            sql.SQL("{}.{}").format(sql.SQL(source), sql.Identifier(name))
            if source
            else sql.Placeholder(name),
        )
        for name in values
    )


def table_name(table):
    return sql.Identifier("public", table)


def insert(conn, table, **values):
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING *").format(
        table_name(table),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join(map(sql.Placeholder, values)),
    )
    return fetch_one(conn, statement, values)


def fetch_one(conn, statement, params=None):
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement, params).fetchone()


def fetch_all(conn, statement, params=None):
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement, params).fetchall()


def read(conn, table, row):
    """Return the row as it is by now."""
    return fetch_one(
        conn,
        sql.SQL("SELECT * FROM {} WHERE customer_id = %s AND id = %s").format(table_name(table)),
        [row["customer_id"], row["id"]],
    )


def events_of(conn, since=0):
    """Return what the audit log got in this transaction, after so many."""
    found = fetch_all(
        conn,
        """
        SELECT customer_id, event_type, subject_type, subject_id, actor, agent_id, data
        FROM public.events WHERE xact_id = pg_catalog.pg_current_xact_id()
        ORDER BY created_at, id
        """,
    )
    return found[since:]


# --- The ways to change a row


def by_update(conn, table, row, values):
    statement = sql.SQL(
        "UPDATE {} SET {} WHERE customer_id = %(_customer_id)s AND id = %(_id)s"
    ).format(table_name(table), assignments(values))
    return conn.execute(statement, values | key_of(row)).rowcount


def by_update_from(conn, table, row, values):
    statement = sql.SQL(
        "UPDATE {table} AS mine SET {values} FROM ("
        "SELECT (pg_catalog.jsonb_populate_record(NULL::{table}, %(_new)s)).*) AS new "
        "WHERE mine.customer_id = %(_customer_id)s AND mine.id = %(_id)s"
    ).format(table=table_name(table), values=assignments(values, "new"))
    new = Jsonb({name: plain(value) for name, value in values.items()})
    return conn.execute(statement, {"_new": new} | key_of(row)).rowcount


def by_upsert(conn, table, row, values):
    keys = "customer_id, workflow_execution_id, id" if table == "workflow_steps" else None
    statement = sql.SQL(
        "INSERT INTO {table} SELECT * FROM {table} "
        "WHERE customer_id = %(_customer_id)s AND id = %(_id)s "
        "ON CONFLICT ({keys}) DO UPDATE SET {values}"
    ).format(
        table=table_name(table),
        keys=sql.SQL(keys or "customer_id, id"),
        values=assignments(values),
    )
    return conn.execute(statement, values | key_of(row)).rowcount


def by_merge(conn, table, row, values):
    statement = sql.SQL(
        "MERGE INTO {} AS mine "
        "USING (SELECT %(_customer_id)s AS customer_id, %(_id)s AS id) AS new "
        "ON mine.customer_id = new.customer_id AND mine.id = new.id "
        "WHEN MATCHED THEN UPDATE SET {} WHEN NOT MATCHED THEN DO NOTHING"
    ).format(table_name(table), assignments(values))
    return conn.execute(statement, values | key_of(row)).rowcount


def by_copy(conn, table, row, values):
    staged = sql.Identifier("pg_temp", f"new_{table}")
    columns = sql.SQL(", ").join(map(sql.Identifier, values))
    with (
        conn.cursor() as cursor,
        cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(staged, columns)) as copy,
    ):
        copy.write_row(list(values.values()))
    statement = sql.SQL(
        "UPDATE {} AS mine SET {} FROM {} AS new "
        "WHERE mine.customer_id = %(_customer_id)s AND mine.id = %(_id)s"
    ).format(table_name(table), assignments(values, "new"), staged)
    return conn.execute(statement, key_of(row)).rowcount


def by_function(conn, table, row, values):
    new = Jsonb({name: plain(value) for name, value in values.items()})
    arguments = [f"public.{table}", row["customer_id"], row["id"], new]
    statement = "SELECT decoy.change(%s::regclass, %s, %s, %s)"
    return conn.execute(statement, arguments).fetchone()[0]


def by_update_with_decoys_first(conn, table, row, values):
    conn.execute("SET LOCAL search_path = pg_temp, decoy, pg_catalog")
    return by_update(conn, table, row, values)


def by_update_without_search_path(conn, table, row, values):
    conn.execute("SET LOCAL search_path = ''")
    return by_update(conn, table, row, values)


WAYS = [
    by_update,
    by_update_from,
    by_upsert,
    by_merge,
    by_copy,
    by_function,
    by_update_with_decoys_first,
    by_update_without_search_path,
]


def key_of(row):
    return {"_customer_id": row["customer_id"], "_id": row["id"]}


def plain(value):
    """Return a value as JSON has it."""
    if isinstance(value, Jsonb):
        return value.obj
    return value if value is None or isinstance(value, int | bool) else str(value)


# --- Who writes, and to what


ROLES = ["superuser", "owner", "plain"]


numbers = count(1)


class Ground:
    """A migrated database with what a row needs to stand on, committed."""

    def __init__(self, conn):
        self.conn = conn
        self.customer_id = self.make_customer()
        self.agent_id = self.make_agent()
        # The run that rows link to is another agent's, so that it can go with that one.
        self.other_agent_id = self.make_agent()
        self.run = self.make_run("running", agent_id=self.other_agent_id)
        self.committed_runs = {
            status: self.make_run(status) for status in ARROWS["workflow_executions"]
        }
        self.recommendation = self.make("recommendations", "pending")

    def make_customer(self):
        number = next(numbers)
        return insert(
            self.conn,
            "customers",
            name=f"Customer {number}",
            email=f"customer-{number}@example.com",
        )["id"]

    def make_agent(self):
        return insert(self.conn, "agents", type="cost", name=f"agent-{next(numbers)}", version="1")[
            "id"
        ]

    def make_run(self, status, **given):
        return self.make("workflow_executions", status, **given)

    def make(self, table, status, **given):
        """Insert a row in a state, with dates of long ago."""
        own = {
            "workflow_executions": lambda: {
                "agent_id": self.agent_id,
                "workflow_type": "cost_analysis",
            },
            "workflow_steps": lambda: {
                "workflow_execution_id": self.run["id"],
                "step_name": "collect",
                "step_order": next(numbers),
                "retry_count": 1 if status == "retrying" else 0,
            },
            "recommendations": lambda: {
                "agent_id": self.agent_id,
                "type": "rightsize_gpu",
                "title": "Release idle GPUs",
            },
            "approvals": lambda: {"recommendation_id": self.recommendation["id"]},
            "optimizations": lambda: {
                "recommendation_id": self.recommendation["id"],
                "agent_id": self.agent_id,
            },
        }
        values = {"customer_id": self.customer_id, "created_at": CREATED, "updated_at": CREATED}
        return insert(self.conn, table, **values | own[table]() | state_of(table, status) | given)

    def make_whole(self, table, status):
        """Insert a row that has a value in every column that may have one in that state."""
        values = {
            "workflow_executions": {
                "retried_from_id": self.run["id"],
                "heartbeat_at": STARTED,
                "deadline_at": UNDONE,
            },
            "workflow_steps": {"error_details": ERROR},
            "recommendations": {
                "workflow_execution_id": self.run["id"],
                "estimated_savings": 1,
                "estimated_improvement": 1,
                "confidence_score": 0.5,
                "approved_at": None if status == "pending" else STARTED,
            },
            "approvals": {"expires_at": UNDONE},
            "optimizations": {
                "workflow_execution_id": self.run["id"],
                "actual_savings": 1,
                "actual_improvement": 1,
                "error": "what went wrong",
            },
        }
        return self.make(table, status, **values[table])

    @contextmanager
    def acting_as(self, role):
        """Write as that role, as though it had logged in."""
        if role != "superuser":
            self.conn.execute(f"SET LOCAL SESSION AUTHORIZATION {role}_of_history")
        yield
        self.conn.execute("SET LOCAL SESSION AUTHORIZATION DEFAULT")


@pytest.fixture(scope="module")
def module_database_url(migrated_template):
    """Make a database of this module's own, with an owner that is no superuser, and decoys."""
    janitor = DatabaseJanitor(
        user=migrated_template.user,
        host=migrated_template.host,
        port=migrated_template.port,
        dbname=f"test_{uuid4().hex}",
        template_dbname=migrated_template.template_dbname,
    )
    with janitor:
        url = (
            f"postgresql://{janitor.user}@/{janitor.dbname}?host={janitor.host}&port={janitor.port}"
        )
        with connect(url) as conn:
            conn.execute(
                """
                CREATE ROLE owner_of_history BYPASSRLS LOGIN IN ROLE optiinfra_owner;
                CREATE ROLE plain_of_history BYPASSRLS LOGIN IN ROLE optiinfra_service;
                GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public
                TO plain_of_history;
                CREATE SCHEMA decoy;
                GRANT USAGE ON SCHEMA decoy TO PUBLIC;
                CREATE TABLE decoy.customers (LIKE public.customers);
                CREATE TABLE decoy.agents (LIKE public.agents);
                CREATE TABLE decoy.events (LIKE public.events);
                CREATE TABLE decoy.workflow_executions (LIKE public.workflow_executions);
                CREATE TABLE decoy.workflow_steps (LIKE public.workflow_steps);
                GRANT ALL ON ALL TABLES IN SCHEMA decoy TO PUBLIC;
                CREATE FUNCTION decoy.now() RETURNS timestamptz LANGUAGE sql
                AS $$ SELECT timestamptz '1999-01-01' $$;
                CREATE FUNCTION decoy.clock_timestamp() RETURNS timestamptz LANGUAGE sql
                AS $$ SELECT timestamptz '1999-01-01' $$;
                CREATE FUNCTION decoy.is_not(public.workflow_status, public.workflow_status)
                RETURNS boolean LANGUAGE sql AS $$ SELECT false $$;
                CREATE OPERATOR decoy.!= (
                    LEFTARG = public.workflow_status,
                    RIGHTARG = public.workflow_status,
                    FUNCTION = decoy.is_not
                );
                CREATE FUNCTION decoy.change(changed regclass, customer_id uuid, id uuid, new jsonb)
                RETURNS bigint LANGUAGE plpgsql AS $$
                DECLARE
                    rows bigint;
                BEGIN
                    EXECUTE (
                        SELECT format(
                            'UPDATE %1$s AS mine SET %2$s '
                            'FROM jsonb_populate_record(NULL::%1$s, $3) AS new '
                            'WHERE mine.customer_id = $1 AND mine.id = $2',
                            changed, string_agg(format('%1$I = new.%1$I', key), ', ')
                        )
                        FROM jsonb_object_keys(new) AS key
                    ) USING customer_id, id, new;
                    GET DIAGNOSTICS rows = ROW_COUNT;
                    RETURN rows;
                END
                $$;
                """
            )
        yield url


@pytest.fixture(scope="module")
def committed(module_database_url):
    """Open the module's connection, and commit what the tests' rows stand on."""
    with connect(module_database_url) as conn:
        ground = Ground(conn)
        conn.execute(
            """
            CREATE TEMPORARY TABLE events (LIKE public.events);
            CREATE TEMPORARY TABLE workflow_executions (LIKE public.workflow_executions);
            CREATE TEMPORARY TABLE workflow_steps (LIKE public.workflow_steps);
            GRANT ALL ON pg_temp.events, pg_temp.workflow_executions, pg_temp.workflow_steps
            TO PUBLIC;
            SET search_path = public, pg_temp
            """
        )
        for table in ARROWS:
            conn.execute(
                f"CREATE TEMPORARY TABLE new_{table} AS SELECT * FROM public.{table} LIMIT 0"
            )
            conn.execute(f"GRANT ALL ON pg_temp.new_{table} TO PUBLIC")
        conn.autocommit = False
        yield ground


@pytest.fixture
def ground(committed):
    """Work in a transaction that is rolled back."""
    yield committed
    committed.conn.rollback()


@pytest.fixture(params=ROLES)
def role(request):
    return request.param


# --- Status changes


def test_the_view_shows_the_arrows_of_the_design_and_no_other(ground):
    rows = ground.conn.execute("SELECT table_name, from_status, to_status FROM status_transitions")
    assert sorted(rows) == sorted(ALL_ARROWS)


def test_every_state_of_the_types_is_in_a_machine(ground):
    for table, arrows in ARROWS.items():
        labels = ground.conn.execute(
            """
            SELECT enumlabel FROM pg_enum
            INNER JOIN pg_attribute ON enumtypid = atttypid
            WHERE attrelid = %s::regclass AND attname = 'status'
            """,
            [f"public.{table}"],
        )
        assert {label for (label,) in labels} == set(arrows)


@pytest.mark.parametrize(("table", "start"), STATES)
def test_a_row_moves_along_an_arrow_and_nowhere_else(ground, role, table, start):
    conn = ground.conn
    row = ground.make(table, start)
    logged = len(events_of(conn))

    with ground.acting_as(role):
        for way in WAYS:
            for end in ARROWS[table]:
                where = f"{role}: {start} -> {end} {way.__name__}"
                values = change_of(table, row, end)
                if end == start:
                    conn.execute("SAVEPOINT attempt")
                    assert way(conn, table, row, values) == 1, where
                    assert (read(conn, table, row), events_of(conn, logged)) == (row, []), where
                elif end in ARROWS[table][start]:
                    conn.execute("SAVEPOINT attempt")
                    assert way(conn, table, row, values) == 1, where
                    moved = read(conn, table, row)
                    assert moved == row | unwrapped(values) | {"updated_at": now(conn)}, where
                    event = expected_event(moved, table, start, f"{role}_of_history")
                    assert events_of(conn, logged) == [event], where
                else:
                    with refused(conn, ILLEGAL_TRANSITION):
                        way(conn, table, row, values)
                        pytest.fail(where)
                    continue
                conn.execute("ROLLBACK TO SAVEPOINT attempt")
        assert (read(conn, table, row), events_of(conn, logged)) == (row, [])
        for decoy in ("pg_temp.events", "decoy.events"):
            assert conn.execute(f"SELECT count(*) FROM {decoy}").fetchone() == (0,)


@pytest.mark.parametrize(("table", "status"), STATES)
def test_a_payload_changes_until_the_row_is_final(ground, role, table, status):
    conn = ground.conn
    row = ground.make(table, status)
    logged = len(events_of(conn))
    payload = PAYLOAD[table]

    with ground.acting_as(role):
        for way in WAYS:
            for values in (payload, {"status": status} | payload):
                if not ARROWS[table][status]:
                    with refused(conn, IMMUTABLE_HISTORY):
                        way(conn, table, row, values)
                        pytest.fail(way.__name__)
                    continue
                conn.execute("SAVEPOINT attempt")
                assert way(conn, table, row, values) == 1
                assert read(conn, table, row) == row | unwrapped(payload) | {
                    "updated_at": now(conn)
                }
                assert events_of(conn, logged) == []
                conn.execute("ROLLBACK TO SAVEPOINT attempt")
        assert read(conn, table, row) == row


@pytest.mark.parametrize(("table", "start", "end"), ALL_ARROWS)
def test_the_audit_log_names_the_actor_that_was_set_else_the_session_user(
    ground, table, start, end
):
    conn = ground.conn
    settings = {
        "SET optiinfra.actor = 'alice'": "alice",
        "SET LOCAL optiinfra.actor = 'bob'": "bob",
        "SET optiinfra.actor = ''": "postgres",
        "SET LOCAL ROLE plain_of_history": "postgres",
        "SET LOCAL SESSION AUTHORIZATION plain_of_history": "plain_of_history",
    }
    row = ground.make(table, start)
    logged = len(events_of(conn))

    for setting, actor in settings.items():
        conn.execute("SAVEPOINT attempt")
        conn.execute(setting)
        by_update(conn, table, row, change_of(table, row, end))
        assert [event["actor"] for event in events_of(conn, logged)] == [actor]
        conn.execute("ROLLBACK TO SAVEPOINT attempt")


def now(conn):
    return conn.execute("SELECT pg_catalog.now()").fetchone()[0]


def unwrapped(values):
    return {
        name: value.obj if isinstance(value, Jsonb) else value for name, value in values.items()
    }


def expected_event(row, table, start, actor):
    """Return what the audit log is to say about a row that moved, or that came (from None)."""
    subject = table.removesuffix("s")
    data = {"from": start, "to": row["status"]}
    if table == "workflow_executions":
        data["attempt"] = row["attempt"]
        if row["error_details"] is not None:
            data["error"] = row["error_details"]
        elif row["status"] == "cancelled":
            data["error"] = {
                "type": "WorkflowCancelled",
                "message": row["metadata"].get("cancel_reason", "cancelled"),
            }
    elif table == "workflow_steps":
        data["workflow_execution_id"] = str(row["workflow_execution_id"])
        data["retry_count"] = row["retry_count"]
        if row["status"] in {"failed", "retrying"}:
            data["error"] = row["error_details"]
    elif table == "optimizations" and row["status"] == "failed":
        data["error"] = row["error"]
    return {
        "customer_id": row["customer_id"],
        "event_type": f"{subject}.{row['status']}",
        "subject_type": subject,
        "subject_id": row["id"],
        "actor": actor.replace("superuser_of_history", "postgres"),
        # Of a run only the creation says whose it is.
        "agent_id": row.get("agent_id")
        if start is None or table != "workflow_executions"
        else None,
        "data": data,
    }


@pytest.mark.parametrize(("table", "status"), STATES)
def test_a_row_comes_and_goes_in_any_state(ground, role, table, status):
    conn = ground.conn
    logged = len(events_of(conn))
    with ground.acting_as(role):
        row = ground.make(table, status)
        assert row == read(conn, table, row)
        created = expected_event(row, table, None, f"{role}_of_history")
        if table == "workflow_executions" and status == "cancelled":
            created["data"].pop("error")
        expected = [] if table == "workflow_steps" else [created]
        assert events_of(conn, logged) == expected

        deleted = conn.execute(
            sql.SQL("DELETE FROM {} WHERE id = %s").format(table_name(table)), [row["id"]]
        )
        assert deleted.rowcount == 1
        assert events_of(conn, logged) == expected


# --- Rows that are final, and what a row is known by


OTHER_VALUES = {
    "uuid": uuid4(),
    "text": "other",
    "jsonb": Jsonb({"other": True}),
    "timestamp with time zone": datetime(2001, 1, 1, tzinfo=UTC),
    "integer": 77,
    "numeric": Decimal("77.77"),
    "double precision": 0.77,
}


def columns_of(conn, table):
    return conn.execute(
        """
        SELECT column_name, data_type, udt_name FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name = %s ORDER BY ordinal_position
        """,
        [table],
    ).fetchall()


@pytest.mark.parametrize(("table", "status"), FINAL_STATES)
def test_no_column_of_a_final_row_changes(ground, role, table, status):
    conn = ground.conn
    row = ground.make_whole(table, status)
    columns = columns_of(conn, table)
    assert {column for column, *_ in columns} == set(row)

    with ground.acting_as(role):
        for column, data_type, udt_name in columns:
            if column == "status":
                continue
            if data_type == "USER-DEFINED":
                labels = conn.execute(f"SELECT enum_range(NULL::{udt_name})::text[]").fetchone()[0]
                other = next(label for label in labels if label != row[column])
            else:
                other = OTHER_VALUES[data_type]
            expected = TENANT_MISMATCH if column == "customer_id" else IMMUTABLE_HISTORY
            with refused(conn, expected):
                by_update(conn, table, row, {column: other})
                pytest.fail(column)
            if row[column] is not None:
                with refused(conn, IMMUTABLE_HISTORY):
                    by_update(conn, table, row, {column: None})
                    pytest.fail(f"{column} = NULL")
        assert read(conn, table, row) == row


@pytest.mark.parametrize(("table", "status"), STATES)
def test_a_row_keeps_its_customer_and_its_id(ground, role, table, status):
    conn = ground.conn
    row = ground.make(table, status)
    other_customer_id = ground.make_customer()
    other_run = ground.make_run("running")

    with ground.acting_as(role):
        for way in WAYS:
            with refused(conn, TENANT_MISMATCH):
                way(conn, table, row, {"customer_id": other_customer_id})
            with refused(conn, IMMUTABLE_HISTORY):
                way(conn, table, row, {"id": uuid4()})
            if table == "workflow_steps":
                with refused(conn, IMMUTABLE_HISTORY):
                    way(conn, table, row, {"workflow_execution_id": other_run["id"]})
        assert read(conn, table, row) == row


@pytest.mark.parametrize(
    ("table", "status"), [(table, status) for table, status in STATES if table in LINKS]
)
def test_a_link_is_cleared_when_its_run_is_deleted_and_only_then(ground, role, table, status):
    conn = ground.conn
    link = LINKS[table]
    row = ground.make_whole(table, status)
    other_run = ground.make_run("completed")
    logged = len(events_of(conn))
    is_final = not ARROWS[table][status]

    with ground.acting_as(role):
        if is_final:
            for value in (None, other_run["id"], uuid4()):
                with refused(conn, IMMUTABLE_HISTORY):
                    by_update(conn, table, row, {link: value})
        deletions = {
            "workflow_executions": ground.run["id"],
            "agents": ground.run["agent_id"],
        }
        for parent, parent_id in deletions.items():
            conn.execute("SAVEPOINT deletion")
            conn.execute(f"DELETE FROM public.{parent} WHERE id = %s", [parent_id])
            expected = row | {link: None}
            if not is_final:
                expected["updated_at"] = now(conn)
            assert read(conn, table, row) == expected
            assert events_of(conn, logged) == []
            if is_final:
                for value in (ground.run["id"], other_run["id"]):
                    with refused(conn, IMMUTABLE_HISTORY):
                        by_update(conn, table, row, {link: value})
            conn.execute("ROLLBACK TO SAVEPOINT deletion")


def test_a_link_is_not_cleared_together_with_something_else(ground):
    conn = ground.conn
    row = ground.make_whole("recommendations", "rolled_back")
    values = {"workflow_execution_id": None, "title": "Something else"}
    with refused(conn, IMMUTABLE_HISTORY):
        by_update(conn, "recommendations", row, values)


def test_a_chain_of_retries_loses_its_links_whichever_of_it_is_deleted(ground, role):
    conn = ground.conn
    first = ground.make_run("failed")
    second = ground.make_run("failed", retried_from_id=first["id"])
    third = ground.make_run("completed", retried_from_id=second["id"])
    with ground.acting_as(role):
        conn.execute(
            "DELETE FROM public.workflow_executions WHERE id = ANY(%s)",
            [[first["id"], second["id"]]],
        )
        assert read(conn, "workflow_executions", third) == third | {"retried_from_id": None}


def test_a_final_payload_is_not_even_spelled_anew(ground):
    conn = ground.conn
    row = ground.make("workflow_executions", "completed", output_data=Jsonb({"n": 1}))
    with refused(conn, IMMUTABLE_HISTORY):
        conn.execute(
            """
            UPDATE public.workflow_executions SET output_data = '{"n": 1.00}' WHERE id = %s
            """,
            [row["id"]],
        )


# --- The audit log


def partitions_of_events(conn):
    """Return each table that holds events, with a time of its month."""
    rows = conn.execute(
        """
        SELECT relname FROM pg_inherits INNER JOIN pg_class ON inhrelid = pg_class.oid
        WHERE inhparent = 'public.events'::regclass ORDER BY relname
        """
    ).fetchall()
    assert len(rows) >= 3
    for (name,) in rows:
        month = "1999_01" if name == "events_default" else name.removeprefix("events_")
        yield name, datetime.strptime(month, "%Y_%m").replace(tzinfo=UTC) + timedelta(days=9)


def test_events_do_not_change_nor_go_by_any_door(ground, role):
    conn = ground.conn
    doors = [("events", None), *partitions_of_events(conn)]
    for partition, created_at in doors:
        if created_at:
            made = insert(
                conn,
                "events",
                customer_id=ground.customer_id,
                created_at=created_at,
                agent_id=ground.agent_id,
                event_type="something.happened",
            )
            where = conn.execute(
                "SELECT tableoid::regclass::text FROM events WHERE id = %s", [made["id"]]
            )
            assert where.fetchone() == (partition,)
    before = fetch_all(conn, "SELECT * FROM public.events ORDER BY id")

    with ground.acting_as(role):
        for name, _ in doors:
            for change in (
                f"UPDATE public.{name} SET data = '{{\"other\": 1}}'",
                f"UPDATE public.{name} SET agent_id = NULL WHERE agent_id IS NOT NULL",
                f"UPDATE public.{name} SET actor = 'somebody else'",
                f"UPDATE public.{name} SET agent_id = NULL, actor = 'somebody else'",
                f"UPDATE public.{name} SET xact_id = '1'",
                f"DELETE FROM public.{name}",
                f"INSERT INTO public.{name} SELECT * FROM public.{name} "
                "ON CONFLICT (customer_id, created_at, id) DO UPDATE SET severity = 'critical'",
                f"MERGE INTO public.{name} AS mine USING public.{name} AS new ON mine.id = new.id "
                "WHEN MATCHED THEN UPDATE SET severity = 'critical'",
                f"MERGE INTO public.{name} AS mine USING public.{name} AS new ON mine.id = new.id "
                "WHEN MATCHED THEN DELETE",
            ):
                with refused(conn, IMMUTABLE_HISTORY):
                    conn.execute(change)
                    pytest.fail(change)
            with refused(conn, NO_PRIVILEGE if role == "plain" else IMMUTABLE_HISTORY):
                conn.execute(f"TRUNCATE public.{name}")
        with refused(conn, IMMUTABLE_HISTORY):
            conn.execute("UPDATE public.events SET created_at = created_at + interval '1 month'")
    assert fetch_all(conn, "SELECT * FROM public.events ORDER BY id") == before


@pytest.mark.parametrize("table", ["customers", "agents", "events"])
def test_truncating_does_not_take_events_along(ground, role, table):
    conn = ground.conn
    # Autovacuum would wait for what GRANT changes, and TRUNCATE for autovacuum: it is locked out.
    tables = conn.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') "
        "AND relnamespace = 'public'::regnamespace ORDER BY oid"
    ).fetchall()
    conn.execute(f"LOCK TABLE {', '.join(name for (name,) in tables)} IN ACCESS EXCLUSIVE MODE")
    conn.execute("GRANT TRUNCATE ON ALL TABLES IN SCHEMA public TO plain_of_history")
    with ground.acting_as(role), refused(conn, IMMUTABLE_HISTORY):
        conn.execute(f"TRUNCATE public.{table} CASCADE")


def make_everything(ground):
    """Make a row in every state, on the ground of the customer and agent."""
    return {
        (table, status): ground.make_whole(table, status)
        if table not in {"workflow_executions", "approvals"}
        else ground.make(table, status)
        for table, status in STATES
    }


def count_rows(conn, **where):
    ((column, value),) = where.items()
    tables = ["events", *ARROWS]
    return {
        table: conn.execute(
            f"SELECT count(*) FROM public.{table} WHERE {column} = %s", [value]
        ).fetchone()[0]
        for table in tables
        if column == "customer_id" or table not in {"workflow_steps", "approvals"}
    }


def test_deleting_a_customer_takes_all_that_is_of_it_and_nothing_else(ground, role):
    conn = ground.conn
    make_everything(ground)
    kept_customer_id = ground.customer_id
    kept = count_rows(conn, customer_id=kept_customer_id)
    other = Ground(conn)
    make_everything(other)
    assert all(count_rows(conn, customer_id=other.customer_id).values())

    with ground.acting_as(role):
        conn.execute("DELETE FROM public.customers WHERE id = %s", [other.customer_id])
    assert not any(count_rows(conn, customer_id=other.customer_id).values())
    assert count_rows(conn, customer_id=kept_customer_id) == kept


def test_deleting_an_agent_takes_its_work_and_leaves_the_events(ground, role):
    conn = ground.conn
    make_everything(ground)
    logged = fetch_all(conn, "SELECT * FROM public.events ORDER BY id")
    assert any(event["agent_id"] == ground.agent_id for event in logged)

    with ground.acting_as(role):
        conn.execute("DELETE FROM public.agents WHERE id = %s", [ground.agent_id])
    assert not any(count_rows(conn, agent_id=ground.agent_id).values())
    for event in logged:
        if event["agent_id"] == ground.agent_id:
            event["agent_id"] = None
    assert fetch_all(conn, "SELECT * FROM public.events ORDER BY id") == logged


# --- Steps of runs that are over


def by_insert(conn, *steps):
    for step in steps:
        insert(conn, "workflow_steps", **step)


def by_insert_select(conn, *steps):
    rows = Jsonb([{name: plain(value) for name, value in step.items()} for step in steps])
    columns = sql.SQL(", ").join(map(sql.Identifier, steps[0]))
    conn.execute(
        sql.SQL(
            "INSERT INTO public.workflow_steps ({0}) SELECT {0} "
            "FROM pg_catalog.jsonb_populate_recordset(NULL::public.workflow_steps, %s)"
        ).format(columns),
        [rows],
    )


def by_copy_in(conn, *steps):
    columns = sql.SQL(", ").join(map(sql.Identifier, steps[0]))
    with (
        conn.cursor() as cursor,
        cursor.copy(sql.SQL("COPY public.workflow_steps ({}) FROM STDIN").format(columns)) as copy,
    ):
        for step in steps:
            copy.write_row(list(step.values()))


def by_insert_or_nothing(conn, *steps):
    for step in steps:
        conn.execute(
            sql.SQL(
                "INSERT INTO public.workflow_steps ({}) VALUES ({}) ON CONFLICT DO NOTHING"
            ).format(
                sql.SQL(", ").join(map(sql.Identifier, step)),
                sql.SQL(", ").join(map(sql.Placeholder, step)),
            ),
            step,
        )


def by_insert_or_update(conn, *steps):
    for step in steps:
        conn.execute(
            sql.SQL(
                "INSERT INTO public.workflow_steps ({}) VALUES ({}) "
                "ON CONFLICT (customer_id, workflow_execution_id, id) "
                "DO UPDATE SET step_name = 'other'"
            ).format(
                sql.SQL(", ").join(map(sql.Identifier, step)),
                sql.SQL(", ").join(map(sql.Placeholder, step)),
            ),
            step,
        )


def by_merge_in(conn, *steps):
    for step in steps:
        columns = sql.SQL(", ").join(map(sql.Identifier, step))
        conn.execute(
            sql.SQL(
                "MERGE INTO public.workflow_steps AS mine USING (SELECT {0} FROM "
                "pg_catalog.jsonb_populate_record(NULL::public.workflow_steps, %s)) AS new "
                "ON mine.id = '00000000-0000-0000-0000-000000000000' "
                "WHEN NOT MATCHED THEN INSERT ({0}) VALUES ({1})"
            ).format(
                columns,
                sql.SQL(", ").join(sql.SQL("new.{}").format(sql.Identifier(name)) for name in step),
            ),
            [Jsonb({name: plain(value) for name, value in step.items()})],
        )


def by_insert_without_search_path(conn, *steps):
    conn.execute("SET LOCAL search_path = ''")
    by_insert(conn, *steps)


def by_insert_with_decoys_first(conn, *steps):
    conn.execute("SET LOCAL search_path = pg_temp, decoy, pg_catalog")
    by_insert(conn, *steps)


WAYS_IN = [
    by_insert,
    by_insert_select,
    by_copy_in,
    by_insert_or_nothing,
    by_insert_or_update,
    by_merge_in,
    by_insert_without_search_path,
    by_insert_with_decoys_first,
]


def new_step(run, status, order=1):
    return {
        "customer_id": run["customer_id"],
        "workflow_execution_id": run["id"],
        "step_name": "late",
        "step_order": order,
        "retry_count": 1 if status == "retrying" else 0,
    } | state_of("workflow_steps", status)


@pytest.mark.parametrize("way", WAYS_IN)
def test_a_run_that_is_over_gets_no_step(ground, role, way):
    conn = ground.conn
    with ground.acting_as(role):
        for run_status, run in ground.committed_runs.items():
            for status in ARROWS["workflow_steps"]:
                if run_status in OPEN_RUN:
                    conn.execute("SAVEPOINT attempt")
                    way(conn, new_step(run, status))
                    assert len(steps_of(conn, run)) == 1
                    conn.execute("ROLLBACK TO SAVEPOINT attempt")
                    continue
                with refused(conn, ILLEGAL_TRANSITION):
                    way(conn, new_step(run, status))
                    pytest.fail(f"{status} into {run_status}")
                if way in {by_insert_select, by_copy_in}:
                    open_run = ground.committed_runs["running"]
                    steps = [new_step(open_run, status, order) for order in range(1, 50)]
                    with refused(conn, ILLEGAL_TRANSITION):
                        way(conn, *steps, new_step(run, status))


def steps_of(conn, run):
    return fetch_all(
        conn,
        "SELECT * FROM public.workflow_steps WHERE workflow_execution_id = %s ORDER BY step_order",
        [run["id"]],
    )


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("bring", ["insert", "in a savepoint", "end", "end in a savepoint"])
def test_the_transaction_that_brings_a_run_brings_its_steps_that_are_over(ground, role, way, bring):
    conn = ground.conn
    with ground.acting_as(role):
        for run_status in FINAL_RUN:
            if bring == "insert":
                run = ground.make_run(run_status)
            elif bring == "in a savepoint":
                conn.execute("SAVEPOINT bringing")
                run = ground.make_run(run_status)
                conn.execute("RELEASE SAVEPOINT bringing")
            else:
                run = ground.make_run("running")
                conn.execute("SAVEPOINT ending")
                by_update(
                    conn, "workflow_executions", run, state_of("workflow_executions", run_status)
                )
                if bring == "end":
                    conn.execute("RELEASE SAVEPOINT ending")
            orders = count(1)
            for status in ARROWS["workflow_steps"]:
                if status in OPEN_STEP:
                    with refused(conn, ILLEGAL_TRANSITION):
                        way(conn, new_step(run, status, next(orders)))
                        pytest.fail(f"{status} into {run_status}")
                else:
                    way(conn, new_step(run, status, next(orders)))
                    conn.execute("SAVEPOINT inner_savepoint")
                    way(conn, new_step(run, status, next(orders)))
            assert len(steps_of(conn, run)) == 2 * len(FINAL_STEP)


def test_a_run_is_not_brought_anew_by_what_is_rolled_back(ground):
    conn = ground.conn
    conn.execute("SAVEPOINT bringing")
    run = ground.make_run("completed")
    conn.execute("ROLLBACK TO SAVEPOINT bringing")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        by_insert(conn, new_step(run, "completed"))


def test_ending_a_run_that_is_older_does_not_let_steps_in(ground):
    conn = ground.conn
    run = ground.committed_runs["running"]
    by_update(conn, "workflow_executions", run, state_of("workflow_executions", "completed"))
    with refused(conn, ILLEGAL_TRANSITION):
        by_insert(conn, new_step(run, "completed"))


def test_an_event_by_hand_does_not_open_a_run_that_is_over(ground):
    conn = ground.conn
    run = ground.committed_runs["completed"]
    insert(
        conn,
        "events",
        customer_id=run["customer_id"],
        created_at=now(conn) + timedelta(seconds=1),
        event_type="something.happened",
        subject_type="something",
        subject_id=run["id"],
        data=Jsonb({"from": None}),
    )
    with refused(conn, ILLEGAL_TRANSITION):
        by_insert(conn, new_step(run, "completed"))


def listed_steps(statuses):
    """Return steps as the functions that record runs take them."""
    return [
        {"step_name": "a", "step_order": order}
        | {name: plain(value) for name, value in state_of("workflow_steps", status).items()}
        for order, status in enumerate(statuses, 1)
    ]


def record_one(ground, status, *statuses):
    return workflow_executions.record_workflow_execution(
        ground.conn,
        customer_id=ground.customer_id,
        agent_id=ground.agent_id,
        workflow_type=WorkflowType.COST_ANALYSIS,
        status=WorkflowStatus(status),
        started_at=STARTED,
        completed_at=ENDED,
        error_details=ERROR.obj if status in {"failed", "timeout"} else None,
        steps=listed_steps(statuses),
        artifacts=[],
    )


def record_among_others(ground, status, *statuses):
    """Record a run between one that is open and one that is over."""
    runs = [
        {"agent_id": str(ground.agent_id), "workflow_type": "cost_analysis"}
        | {name: plain(value) for name, value in state_of("workflow_executions", found).items()}
        | {"steps": listed_steps(steps)}
        for found, steps in (
            ("running", OPEN_STEP[:1]),
            (status, statuses),
            ("completed", FINAL_STEP),
        )
    ]
    _, made, _ = workflow_executions.record_workflow_executions(
        ground.conn, customer_id=ground.customer_id, runs=runs
    )
    return made


@pytest.mark.parametrize("record", [record_one, record_among_others])
@pytest.mark.parametrize("run_status", FINAL_RUN)
def test_recording_a_run_brings_its_steps_unless_one_is_open(ground, role, run_status, record):
    conn = ground.conn
    with ground.acting_as(role):
        run = record(ground, run_status, *FINAL_STEP)
        assert [step["status"] for step in steps_of(conn, {"id": run.id})] == FINAL_STEP
        for status in OPEN_STEP:
            with refused(conn, ILLEGAL_TRANSITION):
                record(ground, run_status, "completed", status)


@pytest.mark.parametrize("start", OPEN_RUN)
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_ends_closes_its_steps_or_is_refused(ground, role, way, start):
    conn = ground.conn
    run = ground.make_run(start)
    steps = {
        status: insert(conn, "workflow_steps", **new_step(run, status, order))
        for order, status in enumerate(ARROWS["workflow_steps"], 1)
    }
    logged = len(events_of(conn))
    with ground.acting_as(role):
        for end in ARROWS["workflow_executions"][start]:
            values = state_of("workflow_executions", end)
            if end == "completed":
                with refused(conn, ILLEGAL_TRANSITION) as caught:
                    way(conn, "workflow_executions", run, values)
                detail = caught.value.diag.message_detail
                assert detail == "Open: late (pending), late (running), late (retrying)."
                continue
            conn.execute("SAVEPOINT attempt")
            way(conn, "workflow_executions", run, values)
            after = {step["step_order"]: step for step in steps_of(conn, run)}
            logs = events_of(conn, logged)
            if end == "running":
                assert list(after.values()) == list(steps.values())
                assert [event["event_type"] for event in logs] == ["workflow_execution.running"]
            else:
                reason = logs[-1]["data"]["error"]
                for status, step in steps.items():
                    expected = dict(step)
                    if status in OPEN_STEP:
                        expected["status"] = "failed" if status == "running" else "skipped"
                        expected["completed_at"] = ENDED
                        expected["next_attempt_at"] = None
                        expected["updated_at"] = now(conn)
                        if status == "running":
                            expected["error_details"] = reason
                        else:
                            expected["metadata"] = {"closed_with_run": True}
                        actor = f"{role}_of_history"
                        event = expected_event(expected, "workflow_steps", status, actor)
                        assert event in logs
                    assert after[step["step_order"]] == expected
                assert len(logs) == len(OPEN_STEP) + 1
            conn.execute("ROLLBACK TO SAVEPOINT attempt")


def test_a_step_that_is_open_again_does_not_slip_past_the_end_of_the_run(ground):
    conn = ground.conn
    run = ground.make_run("running")
    with refused(conn, ILLEGAL_TRANSITION):
        conn.execute(
            """
            WITH ended AS (
                UPDATE public.workflow_executions
                SET status = 'completed', completed_at = now() WHERE id = %(id)s
            )

            INSERT INTO public.workflow_steps (
                customer_id, workflow_execution_id, step_name, step_order
            ) VALUES (%(customer_id)s, %(id)s, 'late', 1)
            """,
            {"id": run["id"], "customer_id": run["customer_id"]},
        )


# --- By function


def run_call(function, **arguments):
    return lambda conn, row: function(
        conn, customer_id=row["customer_id"], id=row["id"], **arguments
    )


def attempt_call(function, **arguments):
    return lambda conn, row, off=0: function(
        conn,
        customer_id=row["customer_id"],
        id=row["id"],
        attempt=row["attempt"] + off,
        **arguments,
    )


def step_call(function, **arguments):
    return lambda conn, row, off=0: function(
        conn,
        customer_id=row["customer_id"],
        workflow_execution_id=row["workflow_execution_id"],
        id=row["id"],
        retry_count=row["retry_count"] + off,
        **arguments,
    )


def give_step(conn, run, status):
    """Give a run a step, if it may still get one; return it, or one that is not there."""
    step = new_step(run, status)
    if run["status"] in OPEN_RUN:
        return insert(conn, "workflow_steps", **step)
    return step | {"id": uuid4()}


def begin_run(conn, row):
    give_step(conn, row, "pending")
    key = {"customer_id": row["customer_id"], "id": row["id"]}
    step = workflow_executions.begin_workflow_execution(conn, **key)
    return step and workflow_executions.get_workflow_execution(conn, **key)


def finish_run(conn, row):
    step = give_step(conn, row, "running")
    return finish_by(conn, step)


def finish_by(conn, step, off=0):
    return workflow_executions.finish_workflow_execution(
        conn,
        customer_id=step["customer_id"],
        id=step["workflow_execution_id"],
        workflow_step_id=step["id"],
        retry_count=step["retry_count"] + off,
    )


def finish_with_step(conn, row, off=0):
    return finish_by(conn, row, off) and workflow_steps.get_workflow_step(
        conn,
        customer_id=row["customer_id"],
        workflow_execution_id=row["workflow_execution_id"],
        id=row["id"],
    )


CALLS = {
    "workflow_executions": {
        "start": (run_call(workflow_executions.start_workflow_execution), {"pending": "running"}),
        "begin": (begin_run, {"pending": "running"}),
        "claim": (
            lambda conn, row: workflow_executions.claim_workflow_execution(
                conn, agent_id=row["agent_id"]
            ),
            {"pending": "running"},
        ),
        "heartbeat": (
            attempt_call(workflow_executions.heartbeat_workflow_execution),
            {"running": "running"},
        ),
        "complete": (
            attempt_call(workflow_executions.complete_workflow_execution),
            {"running": "completed"},
        ),
        "finish": (finish_run, {"running": "completed"}),
        "fail": (
            attempt_call(workflow_executions.fail_workflow_execution, error_details=ERROR.obj),
            {"running": "failed"},
        ),
        "cancel": (
            run_call(workflow_executions.cancel_workflow_execution, reason="no need"),
            {"pending": "cancelled", "running": "cancelled"},
        ),
        "time_out": (
            lambda conn, _: workflow_executions.time_out_workflow_executions(conn, max_rows=1),
            {"pending": "timeout", "running": "timeout"},
        ),
        "time_out_one": (
            run_call(workflow_executions.time_out_workflow_execution),
            {"pending": "timeout", "running": "timeout"},
        ),
        "time_out_silent": (
            lambda conn, _: workflow_executions.time_out_workflow_executions(
                conn, max_rows=100, heartbeat_timeout=timedelta(hours=1)
            ),
            {"pending": "timeout", "running": "timeout"},
        ),
    },
    "workflow_steps": {
        "start": (
            lambda conn, row: workflow_steps.start_workflow_step(
                conn,
                customer_id=row["customer_id"],
                workflow_execution_id=row["workflow_execution_id"],
                id=row["id"],
            ),
            {"pending": "running", "retrying": "running"},
        ),
        "complete": (
            step_call(workflow_steps.complete_workflow_step),
            {"running": "completed"},
        ),
        "advance": (step_call(workflow_steps.advance_workflow_step), {"running": "completed"}),
        "finish": (finish_with_step, {"running": "completed"}),
        "fail": (
            step_call(workflow_steps.fail_workflow_step, retryable=False, error_details=ERROR.obj),
            {"running": "failed"},
        ),
        "fail_retryable": (
            step_call(workflow_steps.fail_workflow_step, retryable=True, error_details=ERROR.obj),
            {"running": "retrying"},
        ),
        "skip": (
            step_call(workflow_steps.skip_workflow_step),
            {"pending": "skipped", "running": "skipped", "retrying": "skipped"},
        ),
    },
    "recommendations": {
        "approve": (
            run_call(recommendations_module.approve_recommendation),
            {"pending": "approved"},
        ),
        "reject": (
            run_call(recommendations_module.reject_recommendation),
            {"pending": "rejected", "approved": "rejected"},
        ),
    },
}


@pytest.mark.parametrize(
    ("table", "name"), [(table, name) for table, calls in CALLS.items() for name in calls]
)
def test_a_function_moves_the_rows_that_it_says_and_no_other(ground, role, table, name):
    conn = ground.conn
    call, moves = CALLS[table][name]
    assert all(end == start or end in ARROWS[table][start] for start, end in moves.items())
    agent_id = ground.make_agent()
    given = {
        "workflow_executions": {
            # What is past its deadline is not claimed.
            "deadline_at": None if name == "claim" else UNDONE,
            "agent_id": agent_id,
        },
        "workflow_steps": {},
        "recommendations": {},
    }
    for start in ARROWS[table]:
        conn.execute("SAVEPOINT attempt")
        row = ground.make(table, start, **given[table])
        logged = len(events_of(conn))
        with ground.acting_as(role):
            answer = call(conn, row)
            after = read(conn, table, row)
            events = [
                event for event in events_of(conn, logged) if event["subject_id"] == row["id"]
            ]
            if start not in moves:
                assert not [given for given in listed(answer) if given.id == row["id"]], start
                assert (after, events) == (row, []), start
            else:
                assert row["id"] in [given.id for given in listed(answer)]
                assert after["status"] == moves[start]
                assert after["updated_at"] == now(conn)
                event = expected_event(after, table, start, f"{role}_of_history")
                assert events == ([] if start == moves[start] else [event])
        conn.execute("ROLLBACK TO SAVEPOINT attempt")


def listed(answer):
    if isinstance(answer, list):
        return answer
    return [] if answer is None else [answer]


STALE_CALLS = [
    (table, name)
    for table, names in {
        "workflow_executions": ["heartbeat", "complete", "fail"],
        "workflow_steps": ["complete", "advance", "finish", "fail", "fail_retryable", "skip"],
    }.items()
    for name in names
]


@pytest.mark.parametrize(("table", "name"), STALE_CALLS)
def test_an_executor_that_was_superseded_is_told_in_every_state(ground, role, table, name):
    conn = ground.conn
    call, _ = CALLS[table][name]
    for status in ARROWS[table]:
        for off in (1, -1):
            row = ground.make(table, status)
            with ground.acting_as(role):
                with refused(conn, STALE_WRITER):
                    call(conn, row, off)
                    pytest.fail(f"{status}, off by {off}")
                assert read(conn, table, row) == row


@pytest.mark.parametrize("decision", ["approved", "rejected"])
def test_deciding_moves_a_pending_approval_of_a_pending_recommendation(ground, role, decision):
    def decide(conn, row):
        return approvals_module.decide_approval(
            conn,
            customer_id=row["customer_id"],
            id=row["id"],
            status=ApprovalStatus(decision),
            approved_by="ada",
        )

    def expect(status, recommendation_status):
        if (status, recommendation_status) == ("pending", "pending"):
            return decision, decision
        return None

    check_with_recommendations(ground, role, "approvals", decide, expect)


def optimization_call(name, **arguments):
    function = getattr(optimizations_module, name)
    return lambda conn, row: function(
        conn, customer_id=row["customer_id"], id=row["id"], **arguments
    )


def expect_start(status, recommendation_status):
    if (status, recommendation_status) == ("queued", "approved"):
        return "executing", "executing"
    return None


def expect_completion(status, recommendation_status):
    if status == "executing":
        executing = recommendation_status == "executing"
        return "completed", "completed" if executing else recommendation_status
    return None


def expect_failure(status, recommendation_status):
    if status == "executing":
        executing = recommendation_status == "executing"
        return "failed", "failed" if executing else recommendation_status
    return ("failed", recommendation_status) if status == "queued" else None


def expect_rollback(status, recommendation_status):
    if status in {"completed", "failed"}:
        done = recommendation_status in {"completed", "failed"}
        return "rolled_back", "rolled_back" if done else recommendation_status
    return None


@pytest.mark.parametrize(
    ("call", "expect"),
    [
        (optimization_call("start_optimization"), expect_start),
        (optimization_call("complete_optimization"), expect_completion),
        (optimization_call("fail_optimization", error="what went wrong"), expect_failure),
        (optimization_call("roll_back_optimization"), expect_rollback),
    ],
    ids=["start", "complete", "fail", "roll_back"],
)
def test_an_optimization_takes_its_recommendation_along(ground, role, call, expect):
    check_with_recommendations(ground, role, "optimizations", call, expect)


def check_with_recommendations(ground, role, table, call, expect):
    """Call on a row in each state, of a recommendation in each state."""
    conn = ground.conn
    for recommendation_status in ARROWS["recommendations"]:
        recommendation = ground.make("recommendations", recommendation_status)
        for status in ARROWS[table]:
            conn.execute("SAVEPOINT attempt")
            row = ground.make(table, status, recommendation_id=recommendation["id"])
            logged = len(events_of(conn))
            with ground.acting_as(role):
                answer = call(conn, row)
                expected = expect(status, recommendation_status)
                after = read(conn, table, row)
                recommendation_after = read(conn, "recommendations", recommendation)
                assert (answer is not None) == (expected is not None)
                moves = expected or (status, recommendation_status)
                assert (after["status"], recommendation_after["status"]) == moves
                if expected is None:
                    assert (after, recommendation_after) == (row, recommendation)
                actor = f"{role}_of_history"
                wanted = []
                if moves[1] != recommendation_status:
                    assert moves[1] in ARROWS["recommendations"][recommendation_status]
                    wanted.append(
                        expected_event(
                            recommendation_after, "recommendations", recommendation_status, actor
                        )
                    )
                if moves[0] != status:
                    assert moves[0] in ARROWS[table][status]
                    wanted.append(expected_event(after, table, status, actor))
                events = events_of(conn, logged)
                assert len(events) == len(wanted)
                assert all(event in events for event in wanted)
            conn.execute("ROLLBACK TO SAVEPOINT attempt")


def test_progress_is_noted_while_executing_only(ground, role):
    conn = ground.conn
    for status in ARROWS["optimizations"]:
        row = ground.make("optimizations", status)
        logged = len(events_of(conn))
        with ground.acting_as(role):
            answer = optimizations_module.update_optimization_progress(
                conn, customer_id=row["customer_id"], id=row["id"], progress=50
            )
        assert (answer is not None) == (status == "executing")
        assert events_of(conn, logged) == []


def test_what_a_retry_was_told_to_pass_over_stays_passed_over(ground):
    conn = ground.conn
    run = ground.make_run("running")
    for order, status in enumerate(["pending", "running"], 1):
        insert(conn, "workflow_steps", **new_step(run, status, order))

    def fail_and_retry(run_id, **arguments):
        key = {"customer_id": run["customer_id"], "id": run_id}
        workflow_executions.start_workflow_execution(conn, **key)
        workflow_executions.cancel_workflow_execution(conn, **key, reason="no need")
        return workflow_executions.retry_workflow_execution(conn, **key, **arguments)

    retry = fail_and_retry(run["id"], from_step=2)
    assert [step["status"] for step in steps_of(conn, {"id": retry.id})] == ["skipped", "pending"]
    again = fail_and_retry(retry.id)
    assert [step["status"] for step in steps_of(conn, {"id": again.id})] == ["skipped", "pending"]


@pytest.mark.parametrize("end", ["failed", "timeout", "cancelled"])
@pytest.mark.parametrize("waiting", ["pending", "retrying"])
def test_a_retry_does_what_still_waited_when_the_run_ended(ground, waiting, end):
    conn = ground.conn
    run = ground.make_run("running")
    insert(conn, "workflow_steps", **new_step(run, waiting, 1))
    insert(conn, "workflow_steps", **new_step(run, "completed", 2))
    insert(conn, "workflow_steps", **new_step(run, "running", 3))
    by_update(conn, "workflow_executions", run, state_of("workflow_executions", end))

    retry = workflow_executions.retry_workflow_execution(
        conn, customer_id=run["customer_id"], id=run["id"]
    )
    assert steps_of(conn, {"id": retry.id})[0]["status"] == "pending"


# --- Two connections: one that ends a run, and one that adds a step to it


LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


@pytest.fixture
def pair(module_database_url, committed):
    """Open two connections that commit, and a run of their own."""
    with connect(module_database_url) as one, connect(module_database_url) as other:
        for conn in (one, other):
            conn.execute("SET lock_timeout = '50ms'")
        run = insert(
            one,
            "workflow_executions",
            customer_id=committed.customer_id,
            agent_id=committed.agent_id,
            workflow_type="cost_analysis",
            **state_of("workflow_executions", "running"),
        )
        yield one, other, run


def add_by_function(conn, run):
    return workflow_steps.add_workflow_step(
        conn, customer_id=run["customer_id"], workflow_execution_id=run["id"], step_name="late"
    )


def add_by_insert(conn, run):
    return insert(conn, "workflow_steps", **new_step(run, "pending"))


def end_as(status):
    def end(conn, run):
        return by_update(conn, "workflow_executions", run, state_of("workflow_executions", status))

    return end


def end_by_function(conn, run):
    return workflow_executions.fail_workflow_execution(
        conn, customer_id=run["customer_id"], id=run["id"], attempt=1, error_details=ERROR.obj
    )


def begin(conn, level):
    """Begin a transaction and let it take its snapshot."""
    conn.execute(f"BEGIN ISOLATION LEVEL {level}")
    conn.execute("SELECT count(*) FROM workflow_executions").fetchone()


def tried(function, *args):
    """Return what a function answers, or with which SQLSTATE it was refused."""
    try:
        return function(*args)
    except (psycopg.Error, OptiInfraError) as error:
        return sqlstate_of(error)


def assert_nothing_open_in_what_is_over(conn, run):
    status = conn.execute(
        "SELECT status FROM workflow_executions WHERE id = %s", [run["id"]]
    ).fetchone()[0]
    steps = [step["status"] for step in steps_of(conn, run)]
    if status in FINAL_RUN:
        assert not set(steps) & set(OPEN_STEP), (status, steps)
    return status, steps


ADDERS = pytest.mark.parametrize("add", [add_by_function, add_by_insert])
ENDERS = pytest.mark.parametrize(
    "end", [end_by_function, *map(end_as, FINAL_RUN)], ids=["function", *FINAL_RUN]
)
AT_LEVELS = pytest.mark.parametrize("level", LEVELS)


@AT_LEVELS
@ENDERS
@ADDERS
def test_who_ends_a_run_in_an_old_snapshot_misses_no_step(pair, level, end, add):
    ender, adder, run = pair
    begin(ender, level)
    assert add(adder, run)
    answer = tried(end, ender, run)
    if level != "READ COMMITTED":
        assert answer == SERIALIZATION_FAILURE
        ender.execute("ROLLBACK")
    elif answer == ILLEGAL_TRANSITION:
        ender.execute("ROLLBACK")
    else:
        assert answer
        ender.execute("COMMIT")
    status, steps = assert_nothing_open_in_what_is_over(adder, run)
    assert (status, steps) in (
        [("failed", ["skipped"]), ("cancelled", ["skipped"]), ("timeout", ["skipped"])]
        if level == "READ COMMITTED" and answer != ILLEGAL_TRANSITION
        else [("running", ["pending"])]
    )


@AT_LEVELS
@ENDERS
@ADDERS
def test_who_adds_a_step_in_an_old_snapshot_sees_the_end_of_the_run(pair, level, end, add):
    ender, adder, run = pair
    begin(adder, level)
    assert end(ender, run)
    answer = tried(add, adder, run)
    if level != "READ COMMITTED":
        assert answer == SERIALIZATION_FAILURE
    else:
        assert answer == (ILLEGAL_TRANSITION if add is add_by_insert else None)
    adder.execute("ROLLBACK")
    assert assert_nothing_open_in_what_is_over(ender, run)[1] == []


@AT_LEVELS
@ENDERS
@ADDERS
def test_who_ends_a_run_waits_for_the_step_that_is_being_added(pair, level, end, add):
    ender, adder, run = pair
    begin(adder, level)
    assert add(adder, run)
    begin(ender, level)
    ender.execute("SET LOCAL lock_timeout = '5ms'")
    assert tried(end, ender, run) == LOCK_TIMEOUT
    ender.execute("ROLLBACK")
    adder.execute("COMMIT")
    tried(end, ender, run)
    assert len(assert_nothing_open_in_what_is_over(ender, run)[1]) == 1


@AT_LEVELS
@ENDERS
@ADDERS
def test_who_adds_a_step_waits_for_the_end_that_is_being_made(pair, level, end, add):
    ender, adder, run = pair
    begin(ender, level)
    assert end(ender, run)
    begin(adder, level)
    adder.execute("SET LOCAL lock_timeout = '5ms'")
    assert tried(add, adder, run) == LOCK_TIMEOUT
    adder.execute("ROLLBACK")
    ender.execute("COMMIT")
    assert tried(add, adder, run) in {None, ILLEGAL_TRANSITION}
    assert assert_nothing_open_in_what_is_over(ender, run)[1] == []
