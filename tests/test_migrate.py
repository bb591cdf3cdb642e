import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from optiinfra_db import migrate as module
from optiinfra_db.errors import (
    ChecksumMismatch,
    DatabaseNewerThanPackage,
    DatabaseUnreachable,
    InsufficientPrivileges,
    InvalidURL,
    MigrationError,
    MigrationFailed,
    MigrationLockTimeout,
    MissingRollback,
    UnknownMigration,
    UnsupportedPostgres,
)
from optiinfra_db.migrate import migrate, rollback, status

AWKWARD = """\
-- A comment; with a semicolon, 'quotes' and "more", and 100 % of %s.
CREATE TABLE b (id int PRIMARY KEY, note text DEFAULT 'it''s; $1 \\ %(x)s');
CREATE FUNCTION f(a int) RETURNS text LANGUAGE plpgsql AS $fn$
DECLARE
    r record; -- BEGIN; END; $$
BEGIN
    /* CASE; BEGIN */
    FOR r IN SELECT CASE WHEN a > 0 THEN 'x;' ELSE 'y''' END AS c LOOP
        IF r.c = 'x;' THEN
            RETURN 'it''s;' || $$;END;$$;
        END IF;
    END LOOP;
    BEGIN
        PERFORM 1 / 0;
    EXCEPTION WHEN division_by_zero THEN
        RETURN E'\\\\;\\'';
    END;
END;
$fn$;
CREATE FUNCTION g() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END;
DO $$ BEGIN INSERT INTO b (id) VALUES (1); END $$;
SELECT f(1), f(0);
"""


@pytest.fixture
def migrations(tmp_path):
    """Make a directory of two migrations."""
    add(tmp_path, "0001.create-a", "CREATE TABLE a (id int PRIMARY KEY);", "DROP TABLE a;")
    add(
        tmp_path,
        "0002.create-b",
        AWKWARD,
        "DROP FUNCTION f(int); DROP FUNCTION g(); DROP TABLE b;",
    )
    return tmp_path


def add(directory, name, up, down=None):
    (directory / f"{name}.sql").write_text(up)
    if down is not None:
        (directory / f"{name}.rollback.sql").write_text(down)


def run(url, statement):
    with psycopg.connect(url, autocommit=True) as conn:
        cursor = conn.execute(statement)
        return cursor.fetchall() if cursor.description else []


def relations(url):
    return {
        name
        for (name,) in run(
            url,
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
            "AND relkind IN ('r', 'p', 'f', 'v', 'S') AND relname NOT LIKE '\\_yoyo\\_%'",
        )
    }


def states(url, directory):
    return [item.state for item in status(url, migrations_dir=directory)]


def test_up_down_up(empty_database_url, migrations):
    url = empty_database_url
    assert states(url, migrations) == ["pending", "pending"]
    assert run(url, "SELECT count(*) FROM pg_class WHERE relname ~ 'yoyo'") == [(0,)]
    for _ in range(2):
        result = migrate(url, migrations_dir=migrations)
        assert result.applied == ["0001.create-a", "0002.create-b"]
        assert run(url, "SELECT f(1), f(0), g(), note FROM b") == [
            ("it's;;END;", "\\;'", 2, "it's; $1 \\ %(x)s")
        ]
        assert migrate(url, migrations_dir=migrations).applied == []
        assert rollback(url, migrations_dir=migrations) == ["0002.create-b"]
        assert relations(url) == {"a"}
        migrate(url, migrations_dir=migrations)
        assert rollback(url, to=0, migrations_dir=migrations) == ["0002.create-b", "0001.create-a"]
        assert relations(url) == set()
        assert rollback(url, migrations_dir=migrations) == []


def test_the_packages_own_migrations_go_up_down_up(empty_database_url):
    url = empty_database_url
    started = time.monotonic()
    result = migrate(url)
    assert time.monotonic() - started < 5
    assert [name[:4] for name in result.applied] == [f"{n:04}" for n in range(1, 18)]
    assert result.partitions
    tables = relations(url)
    assert {"customers", "workflow_executions"} <= tables
    assert migrate(url) == module.MigrateResult([], [])
    assert rollback(url, to=1) == list(reversed(result.applied[1:]))
    assert rollback(url, to=0) == result.applied[:1]
    assert relations(url) == set()
    migrate(url)
    assert relations(url) == tables


def test_status_says_when_and_by_whom(empty_database_url, migrations):
    before = datetime.now(UTC) - timedelta(seconds=1)
    add(migrations, "0003.create-c", "CREATE TABLE c ();")
    (third := migrations / "0003.create-c.sql").rename(hidden := migrations / "x")
    migrate(empty_database_url, migrations_dir=migrations)
    hidden.rename(third)
    first, _, last = status(empty_database_url, migrations_dir=migrations)
    assert first.id == "0001.create-a"
    assert first.state == "applied"
    assert first.applied_at is not None
    assert before < first.applied_at < datetime.now(UTC)
    assert first.applied_by
    assert "@" in first.applied_by
    assert (last.state, last.applied_at, last.applied_by) == ("pending", None, None)


def test_an_applied_file_that_was_edited_is_refused(empty_database_url, migrations):
    migrate(empty_database_url, migrations_dir=migrations)
    path = migrations / "0001.create-a.sql"
    text = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    migrate(empty_database_url, migrations_dir=migrations)  # the same text, from an editor
    add(migrations, "0001.create-a", f"{text} -- edited", "DROP TABLE a;")
    add(migrations, "0003.create-c", "CREATE TABLE c ();")
    assert states(empty_database_url, migrations) == ["edited", "applied", "pending"]
    with pytest.raises(ChecksumMismatch, match=r"0001\.create-a\.sql.*new migration"):
        migrate(empty_database_url, migrations_dir=migrations)
    assert "c" not in relations(empty_database_url)
    rollback(empty_database_url, to=0, migrations_dir=migrations)
    assert len(migrate(empty_database_url, migrations_dir=migrations).applied) == 3


def test_a_database_newer_than_the_package_is_refused(empty_database_url, migrations):
    migrate(empty_database_url, migrations_dir=migrations)
    (migrations / "0002.create-b.sql").unlink()
    assert states(empty_database_url, migrations) == ["applied", "unknown"]
    for attempt in (migrate, rollback):
        with pytest.raises(DatabaseNewerThanPackage, match=r"0002\.create-b.*Upgrade"):
            attempt(empty_database_url, migrations_dir=migrations)


def test_an_old_server_is_refused(empty_database_url, migrations, monkeypatch):
    monkeypatch.setattr(module, "_OLDEST_POSTGRES", 990000)
    for attempt in (migrate, rollback, status):
        with pytest.raises(UnsupportedPostgres, match="15 or later"):
            attempt(empty_database_url, migrations_dir=migrations)


def test_bad_urls_and_servers_are_refused(tmp_path):
    with pytest.raises(InvalidURL):
        migrate("mysql://h/d")
    with pytest.raises(DatabaseUnreachable):
        migrate(f"postgresql:///d?host={tmp_path}")


@pytest.fixture
def guest_url(empty_database_url):
    """Name a role without privileges."""
    guest = f"guest of {empty_database_url.partition('?')[0][-8:]}"
    run(empty_database_url, sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(guest)))
    yield empty_database_url.replace("postgres@", f"{guest.replace(' ', '%20')}@")
    run(empty_database_url, sql.SQL("DROP OWNED BY {}").format(sql.Identifier(guest)))
    run(empty_database_url, sql.SQL("DROP ROLE {}").format(sql.Identifier(guest)))


def test_missing_privileges_are_named(empty_database_url, guest_url, migrations):
    with pytest.raises(InsufficientPrivileges) as caught:
        migrate(guest_url, migrations_dir=migrations)
    grant = str(caught.value).partition("run: ")[2].partition(";")[0]
    assert grant.startswith('GRANT USAGE, CREATE ON SCHEMA public TO "guest of')
    run(empty_database_url, grant)
    assert len(migrate(guest_url, migrations_dir=migrations).applied) == 2


def test_a_stranger_to_the_tables_is_told_so(empty_database_url, guest_url, migrations):
    migrate(empty_database_url, migrations_dir=migrations)
    for attempt in (migrate, status):
        with pytest.raises(InsufficientPrivileges, match="the role that owns them"):
            attempt(guest_url, migrations_dir=migrations)


def test_a_search_path_without_a_schema_is_refused(empty_database_url, migrations):
    url = f"{empty_database_url}&options=-csearch_path%3Dnowhere"
    with pytest.raises(InsufficientPrivileges, match="search_path"):
        migrate(url, migrations_dir=migrations)


def test_everything_goes_into_the_first_schema_of_the_search_path(empty_database_url, migrations):
    run(empty_database_url, "CREATE SCHEMA elsewhere")
    url = f"{empty_database_url}&options=-csearch_path%3Delsewhere,public"
    migrate(url, migrations_dir=migrations)
    assert relations(url) == set()
    assert run(
        url,
        "SELECT count(*) FROM pg_class WHERE relname ~ '^_yoyo_.*[a-z]$'"
        " AND relkind = 'r' AND relnamespace != 'elsewhere'::regnamespace",
    ) == [(0,)]
    assert states(url, migrations) == ["applied", "applied"]


def test_a_failing_migration_leaves_nothing_and_says_where(empty_database_url, migrations):
    add(migrations, "0003.create-c", "-- a comment\n\nCREATE TABLE c ();\nCREATE TABLE c (;\n")
    with pytest.raises(MigrationFailed) as caught:
        migrate(empty_database_url, migrations_dir=migrations)
    message = str(caught.value)
    assert "0003.create-c" in message
    assert "LINE 4" in message
    assert "Nothing of it was kept" in message
    assert relations(empty_database_url) == {"a", "b"}
    assert states(empty_database_url, migrations) == ["applied", "applied", "pending"]


def test_a_migration_that_commits_is_refused(empty_database_url, migrations):
    add(migrations, "0003.create-c", "CREATE TABLE c ();\nCOMMIT;")
    with pytest.raises(MigrationFailed, match=r"0003\.create-c.*COMMIT"):
        migrate(empty_database_url, migrations_dir=migrations)


def test_a_table_in_use_is_waited_for_no_longer_than_lock_timeout(empty_database_url, migrations):
    migrate(empty_database_url, migrations_dir=migrations)
    add(
        migrations,
        "0003.alter-a",
        "SET LOCAL lock_timeout = '100ms';\nCREATE TABLE c ();\nALTER TABLE a ADD x int;",
    )
    with psycopg.connect(empty_database_url) as reader:
        reader.execute("SELECT * FROM a")
        with pytest.raises(MigrationLockTimeout, match=r"0003\.alter-a.*Run it again"):
            migrate(empty_database_url, migrations_dir=migrations)
    assert relations(empty_database_url) == {"a", "b"}
    assert migrate(empty_database_url, migrations_dir=migrations).applied == ["0003.alter-a"]


def test_a_migration_may_run_outside_a_transaction(empty_database_url, migrations):
    add(
        migrations,
        "0003.index-a",
        "-- transactional: false\nSET statement_timeout = '1min';\n"
        "DROP INDEX CONCURRENTLY IF EXISTS a_x_idx;\nCREATE INDEX CONCURRENTLY a_x_idx ON a (id);",
        "-- transactional: false\nDROP INDEX CONCURRENTLY a_x_idx;",
    )
    add(migrations, "0004.fails", "-- transactional: false\nCREATE TABLE d ();\nSELECT 1/0;")
    with pytest.raises(MigrationFailed, match=r"0004.*outside a transaction.*still there"):
        migrate(empty_database_url, migrations_dir=migrations)
    assert states(empty_database_url, migrations) == ["applied"] * 3 + ["pending"]
    assert rollback(empty_database_url, migrations_dir=migrations) == ["0003.index-a"]


def test_what_cannot_be_rolled_back_is_said(empty_database_url, migrations):
    add(migrations, "0003.create-c", "CREATE TABLE c ();")
    migrate(empty_database_url, migrations_dir=migrations)
    with pytest.raises(MissingRollback, match=r"0003\.create-c.*rollback\.sql"):
        rollback(empty_database_url, migrations_dir=migrations)
    with pytest.raises(UnknownMigration, match="number 7"):
        rollback(empty_database_url, to=7, migrations_dir=migrations)
    assert states(empty_database_url, migrations) == ["applied"] * 3


def test_a_directory_without_migrations_is_refused(empty_database_url, tmp_path):
    with pytest.raises(MigrationError, match="no migrations in"):
        migrate(empty_database_url, migrations_dir=tmp_path)


def test_what_plain_yoyo_left_is_taken_over(empty_database_url, migrations):
    (migrations / "0002.create-b.sql").rename(migrations / "later")
    yoyo = [sys.executable, "-m", "yoyo", "apply", "--batch", "--no-config-file", str(migrations)]
    database = empty_database_url.replace("postgresql://", "postgresql+psycopg://")
    subprocess.run([*yoyo, "--database", database], check=True, capture_output=True)
    run(empty_database_url, "INSERT INTO yoyo_lock VALUES (1, now(), 99999)")  # after a crash
    (migrations / "later").rename(migrations / "0002.create-b.sql")
    assert migrate(empty_database_url, migrations_dir=migrations).applied == ["0002.create-b"]
    add(migrations, "0001.create-a", "CREATE TABLE z ();")
    with pytest.raises(ChecksumMismatch):
        migrate(empty_database_url, migrations_dir=migrations)


def spawn(url, directory):
    script = "import sys; from pathlib import Path; from optiinfra_db.migrate import migrate\n"
    script += "print(*migrate(sys.argv[1], migrations_dir=Path(sys.argv[2])).applied)"
    return subprocess.Popen(
        [sys.executable, "-c", script, url, str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_two_at_once_one_waits_and_both_succeed(empty_database_url, migrations):
    add(migrations, "0003.slow", "CREATE TABLE c (); SELECT pg_sleep(1);", "DROP TABLE c;")
    processes = [spawn(empty_database_url, migrations) for _ in range(2)]
    results = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert sorted(out.split() for out, _ in results) == [
        [],
        ["0001.create-a", "0002.create-b", "0003.slow"],
    ]
    waits = [err for _, err in results if "Waiting for another migrate" in err]
    assert len(waits) == 1
    assert "process" in waits[0]
    assert "role postgres" in waits[0]


@pytest.mark.parametrize(
    ("line", "seconds"),
    [("", 0), ("0001", 0), ("0002", 0), ("0002", 0.004), ("0003", 0), ("0003", 0.1), ("0004", 0)],
)
def test_a_migrate_that_was_killed_is_continued_by_the_next(
    empty_database_url, migrations, line, seconds
):
    url = empty_database_url
    add(migrations, "0003.slow", "CREATE TABLE c (); SELECT pg_sleep(0.5);", "DROP TABLE c;")
    add(migrations, "0004.last", "CREATE TABLE d ();")
    process = spawn(url, migrations)
    assert process.stderr is not None
    while line and line not in process.stderr.readline():
        pass
    time.sleep(seconds)
    process.kill()
    process.communicate()
    killed_at = time.monotonic()
    migrate(url, migrations_dir=migrations)
    assert time.monotonic() - killed_at < 5
    assert states(url, migrations) == ["applied"] * 4
    assert relations(url) == {"a", "b", "c", "d"}
    assert run(url, "SELECT count(*), count(DISTINCT migration_id) FROM _yoyo_migration") == [
        (4, 4)
    ]


def test_a_killed_migrate_does_not_go_on_in_the_server(empty_database_url, migrations):
    add(migrations, "0003.slow", "CREATE TABLE c (); SELECT pg_sleep(60);")
    process = spawn(empty_database_url, migrations)
    assert process.stderr is not None
    while "0003" not in process.stderr.readline():
        pass
    time.sleep(0.1)
    process.kill()
    process.communicate()
    add(migrations, "0003.slow", "CREATE TABLE c ();")
    killed_at = time.monotonic()
    migrate(empty_database_url, migrations_dir=migrations)
    assert time.monotonic() - killed_at < 5


def test_a_server_that_dies_in_the_middle_is_reported(empty_database_url, migrations):
    add(migrations, "0003.slow", "CREATE TABLE c (); SELECT pg_sleep(30);")

    def terminate(text):
        if "0003" in text:
            threading.Timer(0.2, run, [empty_database_url, TERMINATE]).start()

    with pytest.raises(MigrationFailed, match=r"0003\.slow: the connection was lost"):
        migrate(empty_database_url, migrations_dir=migrations, say=terminate)
    assert relations(empty_database_url) == {"a", "b"}


TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid != pg_backend_pid()
"""


def test_a_process_without_a_user_name_can_migrate(empty_database_url, migrations, monkeypatch):
    def fail(*_):
        raise KeyError

    monkeypatch.setattr("getpass.getuser", fail)
    monkeypatch.setattr("socket.getfqdn", fail)
    migrate(empty_database_url, migrations_dir=migrations)
    applied_by = status(empty_database_url, migrations_dir=migrations)[0].applied_by
    assert applied_by is not None
    assert applied_by.startswith("postgres@")
