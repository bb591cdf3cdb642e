"""Distribution: a migrated database laid out over the servers of a Citus cluster.

The SQL is in citus/distribute.sql, with its reasons: what one customer owns goes to one of many
shards, agents and what they are set to are copied to every server. It runs in one transaction, so
what keeps it from ending leaves the database as it was. docs/guides/citus.md says what works there
as it did before, and what does not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.rows import tuple_row

from optiinfra_db import migrate as migrations
from optiinfra_db.errors import CitusMissing, InsufficientPrivileges, NotMigrated

SHARDS = 32
"""Over how many shards the customers are spread, unless told otherwise."""

_SCRIPT = Path(__file__).parent / "citus" / "distribute.sql"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a distributed database is laid out."""

    servers: int
    """How many servers have shards."""
    shards: int
    """Over how many shards the customers are spread."""

    def __str__(self) -> str:
        return f"distributed by Citus: {self.servers} servers, {self.shards} shards"


def layout(conn: Connection[Any]) -> Layout | None:
    """Return how the database is laid out; None for a plain one, on one server."""
    if not _has_citus(conn):
        return None
    with conn.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(_LAYOUT).fetchone()
    return Layout(*found) if found else None


def misplaced(conn: Connection[Any]) -> list[tuple[str, str]]:
    """Return the tables of a distributed database that are not laid out, and how they should be."""
    if layout(conn) is None:
        return []
    with conn.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(_MISPLACED).fetchall()


def distribute(
    url: str | None = None,
    *,
    shards: int = SHARDS,
    say: Callable[[str], None] | None = None,
) -> Layout | None:
    """Lay a migrated database out over the servers of its Citus cluster, `shards` shards in all.

    Writers wait meanwhile. Returns the layout, or None where the database was distributed already.
    `say` is told of progress (default: stderr). Raises CitusMissing, NotMigrated,
    InsufficientPrivileges where the role is no superuser, and the other MigrationErrors.
    """
    say = say or migrations.say_on_stderr
    with migrations.session(url, say) as conn:
        if not _has_citus(conn):
            raise CitusMissing(
                "The database has no extension citus. On each server put citus into "
                "shared_preload_libraries and run CREATE EXTENSION citus in a database of this "
                "name; then, on this one, SELECT citus_set_coordinator_host(...) and "
                "citus_add_node(...) for each of the others."
            )
        found = migrations.status_of(conn)
        migrations.check(found)
        if pending := [item.id for item in found if item.state == "pending"]:
            raise NotMigrated(
                f"Not all migrations are applied: {', '.join(pending)}. Run optiinfra-db migrate."
            )
        if layout(conn) is not None:
            return None
        if conn.execute(_SERVERS).fetchone() == (0,):
            raise CitusMissing(
                "No server of the cluster takes shards. Add some with citus_add_node(...)."
            )
        apply(conn, shards=shards, say=say)
        return layout(conn)


def apply(
    conn: Connection[Any], *, shards: int = SHARDS, say: Callable[[str], None] | None = None
) -> None:
    """Distribute what is not yet, and make functions what they have to be on Citus.

    Raises InsufficientPrivileges and MigrationFailed; nothing of it is kept then.
    """
    row = conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = session_user").fetchone()
    if row != (True,):
        raise InsufficientPrivileges(
            f"Role {conn.info.user} is no superuser, as whoever distributes or migrates a database "
            "on Citus has to be: it makes the same roles and shards on other servers."
        )

    def tell(notice: psycopg.errors.Diagnostic) -> None:
        if say is not None and notice.severity_nonlocalized == "INFO":
            say(notice.message_primary or "")

    conn.execute("RESET ROLE; RESET statement_timeout; SET lock_timeout = '60s'")
    conn.add_notice_handler(tell)
    try:
        with migrations.explained(conn, "distribute"), conn.transaction():
            conn.execute(f"SET LOCAL citus.shard_count = {int(shards)}".encode())
            conn.execute(_SCRIPT.read_bytes())
    finally:
        conn.remove_notice_handler(tell)


def _has_citus(conn: Connection[Any]) -> bool:
    with conn.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(_HAS_CITUS).fetchone() == (True,)


_HAS_CITUS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus')"

_SERVERS = """
SELECT count(*)
FROM pg_catalog.pg_dist_node
WHERE isactive AND shouldhaveshards AND noderole = 'primary'
"""

_MISPLACED = """
SELECT
    rules.relation_name,
    'is on the coordinator alone, and should be ' || coalesce(
        'distributed by ' || rules.customer_column, 'on every server'
    )
FROM access_rules AS rules
INNER JOIN pg_catalog.pg_class
    ON pg_class.oid = to_regclass(rules.relation_name) AND pg_class.relkind IN ('r', 'p')
WHERE
    rules.relation_name !~ '^_yoyo_'
    AND pg_class.oid NOT IN (SELECT logicalrelid FROM pg_catalog.pg_dist_partition)
ORDER BY rules.place
"""

_LAYOUT = f"""
SELECT ({_SERVERS}), (
    SELECT count(*) FROM pg_catalog.pg_dist_shard WHERE logicalrelid = customers.logicalrelid
)
FROM pg_catalog.pg_dist_partition AS customers
WHERE customers.logicalrelid = to_regclass('customers') AND customers.partmethod = 'h'
"""  # noqa: S608 -- of constants
