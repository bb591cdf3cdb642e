"""Seals notice every change of what they sealed, also by a superuser with the triggers off."""

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optiinfra_db import audit, connect, verify_bundle
from optiinfra_db.errors import ImmutableHistory, InvalidValue, NotFound, PermissionDenied
from optiinfra_db.generated import customers, event_seals, events
from optiinfra_db.seed import ATLAS, COST_RUN, INDIE, NIMBUS, seed

SCRIPT = Path(verify_bundle.__file__)
EVENT = (
    "(SELECT id FROM events WHERE customer_id = '{atlas}' ORDER BY xact_id, id OFFSET 2 LIMIT 1)"
)


@pytest.fixture
def conn(database_url):
    with connect(database_url) as conn:
        seed(conn)
        yield conn


@pytest.fixture
def sealed(conn):
    assert audit.seal(conn).events > 10
    return conn


@contextmanager
def without_triggers(conn):
    conn.execute("SET session_replication_role = replica")
    yield
    conn.execute("SET session_replication_role = origin")


def tamper(conn, statement):
    with without_triggers(conn):
        statement = statement.replace("EVENT", EVENT).replace("{atlas}", str(ATLAS))
        assert conn.execute(statement).rowcount >= 1, statement


def problems(conn, **given):
    return [
        (found.customer_id, found.problem, found.seal_number)
        for found in audit.verify(conn, **given)
    ]


def third_event(conn):
    return conn.execute(
        "SELECT id FROM events WHERE customer_id = %s ORDER BY xact_id, id OFFSET 2 LIMIT 1",
        [ATLAS],
    ).fetchone()[0]


def test_what_was_not_touched_is_as_it_was_sealed(conn):
    assert audit.verify(conn) == []
    first = audit.seal(conn)
    assert (first.seals, audit.seal(conn)) == (3, audit.Sealed(0, 0))
    events.create_event(conn, customer_id=ATLAS, event_type="later", data={"Ä": "\\u0041 1.50"})
    assert audit.seal(conn) == audit.Sealed(1, 1)
    assert audit.verify(conn) == []
    assert [(head.customer_id, head.seal_number) for head in audit.heads(conn)] == [
        (INDIE, 1),
        (NIMBUS, 1),
        (ATLAS, 2),
    ]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("event_type", "'other'"),
        ("severity", "'critical'"),
        ("subject_type", "'other'"),
        ("subject_id", "uuidv7()"),
        ("actor", "'mallory'"),
        ("data", "data || '{\"x\": 1}'"),
        ("data", "data - 'to'"),
    ],
)
def test_a_changed_column_is_named(sealed, column, value):
    tamper(sealed, f"UPDATE events SET {column} = {value} WHERE id = EVENT")
    [found] = audit.verify(sealed)
    assert (found.problem, found.customer_id, found.seal_number) == (
        "an event was changed",
        ATLAS,
        1,
    )
    assert found.event_id == third_event(sealed)
    assert str(found.event_id) in str(found)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DELETE FROM events WHERE id = EVENT", {"an event was removed"}),
        (
            "UPDATE events SET created_at = created_at + interval '1 us' WHERE id = EVENT",
            {"an event was removed", "an event was inserted"},
        ),
        (
            "UPDATE events SET id = '00000000-0000-0000-0000-000000000001' WHERE id = EVENT",
            {"an event was removed", "an event was inserted"},
        ),
        (
            "INSERT INTO events (customer_id, event_type, xact_id) VALUES ('{atlas}', 'x', '5')",
            {"an event was inserted"},
        ),
        (
            f"UPDATE events SET customer_id = '{INDIE}' WHERE id = EVENT",
            {"an event was removed", "an event was inserted"},
        ),
    ],
)
def test_what_was_removed_inserted_or_moved_is_named(sealed, statement, expected):
    tamper(sealed, statement)
    assert {problem for _, problem, _ in problems(sealed)} == expected


def test_two_events_that_changed_places_are_named(sealed):
    tamper(
        sealed,
        "UPDATE events SET data = other.data, event_type = other.event_type FROM events AS other "
        "WHERE events.customer_id = '{atlas}' AND other.customer_id = '{atlas}' "
        "AND events.id != other.id AND (events.id = EVENT OR other.id = EVENT)",
    )
    assert problems(sealed) == [(ATLAS, "an event was changed", 1)]


@pytest.mark.parametrize(
    ("statement", "problem", "seal_number"),
    [
        ("UPDATE event_seals SET hash = sha256('x') WHERE {second}", "the seal was changed", 2),
        (
            "UPDATE event_seals SET event_digests[1] = sha256('x') WHERE {second}",
            "the seal was changed",
            2,
        ),
        ("UPDATE event_seals SET seal_number = 9 WHERE {second}", "the seal was changed", 9),
        ("DELETE FROM event_seals WHERE {second}", "the seal before it is gone", 3),
        (
            "UPDATE event_seals SET previous_hash = sha256('x'), hash = hash_seal(customer_id, "
            "seal_number, events_hash, sha256('x')) WHERE {second}",
            "the seal before it was changed",
            2,
        ),
    ],
)
def test_a_seal_that_was_touched_is_named(sealed, statement, problem, seal_number):
    for _ in range(2):
        events.create_event(sealed, customer_id=ATLAS, event_type="x")
        audit.seal(sealed)
    tamper(
        sealed, statement.format(second=f"customer_id = '{ATLAS}' AND seal_number = 2", atlas="")
    )
    assert (ATLAS, problem, seal_number) in problems(sealed)


def test_only_kept_heads_tell_of_an_end_that_was_cut_off(sealed):
    events.create_event(sealed, customer_id=ATLAS, event_type="embarrassing")
    audit.seal(sealed)
    kept = audit.heads(sealed)
    tamper(sealed, "DELETE FROM events WHERE event_type = 'embarrassing'")
    tamper(sealed, f"DELETE FROM event_seals WHERE customer_id = '{ATLAS}' AND seal_number = 2")
    assert problems(sealed) == []
    assert problems(sealed, known_heads=kept) == [(ATLAS, "the known head is not in the chain", 2)]


def test_only_kept_heads_tell_of_a_chain_that_was_made_anew(sealed):
    kept = audit.heads(sealed)
    tamper(sealed, "UPDATE events SET actor = 'somebody else' WHERE id = EVENT")
    tamper(sealed, "DELETE FROM event_seals")
    audit.seal(sealed)
    assert problems(sealed) == []
    assert problems(sealed, known_heads=kept) == [(ATLAS, "the known head is not in the chain", 1)]


def test_kept_heads_stay_good_while_the_chain_grows_and_tell_of_a_customer_that_is_gone(sealed):
    kept = audit.heads(sealed)
    events.create_event(sealed, customer_id=ATLAS, event_type="x")
    audit.seal(sealed)
    assert problems(sealed, known_heads=kept) == []
    assert problems(sealed, customer_id=ATLAS, known_heads=kept) == []
    customers.delete_customer(sealed, id=INDIE)
    assert problems(sealed, known_heads=kept) == [
        (INDIE, "the customer of a known head is gone", 1)
    ]
    assert audit.parse_heads(json.dumps([head.model_dump(mode="json") for head in kept])) == kept
    with pytest.raises(InvalidValue, match="seal --json"):
        audit.parse_heads("{}")


def test_an_event_is_sealed_once_whoever_is_deleted_in_between(sealed):
    """The customer who was sealed the furthest is gone: the others are not sealed again."""
    for _ in range(3):
        events.create_event(sealed, customer_id=NIMBUS, event_type="x")
    events.create_event(sealed, customer_id=INDIE, event_type="x")
    audit.seal(sealed)
    events.create_event(sealed, customer_id=INDIE, event_type="x")
    audit.seal(sealed)
    customers.delete_customer(sealed, id=INDIE)
    events.create_event(sealed, customer_id=ATLAS, event_type="x")
    assert audit.seal(sealed) == audit.Sealed(1, 1)
    covered = sealed.execute("SELECT unnest(event_ids) FROM event_seals").fetchall()
    assert len(covered) == len(set(covered))
    assert audit.verify(sealed) == []


def test_seals_can_be_neither_changed_nor_deleted_nor_written_by_others(sealed):
    for statement in (
        "UPDATE event_seals SET hash = hash",
        "DELETE FROM event_seals",
        "TRUNCATE event_seals",
    ):
        with pytest.raises(psycopg.Error) as caught:
            sealed.execute(statement)
        assert caught.value.sqlstate == "OI004", ImmutableHistory
    sealed.execute("SET ROLE optiinfra_service")
    events.create_event(sealed, customer_id=ATLAS, event_type="x")
    with pytest.raises(PermissionDenied):
        audit.seal(sealed)
    assert audit.verify(sealed) == []


def test_a_tenant_verifies_its_own(sealed):
    sealed.execute(
        f"SET optiinfra.customer_id = '{ATLAS}'; SET ROLE optiinfra_tenant",
    )
    assert [head.customer_id for head in audit.heads(sealed)] == [ATLAS]
    assert audit.verify(sealed) == []


def test_what_is_not_committed_is_sealed_later(sealed, database_url):
    with connect(database_url) as writer, writer.transaction():
        mine = events.create_event(writer, customer_id=ATLAS, event_type="slow")
        events.create_event(sealed, customer_id=ATLAS, event_type="quick")
        assert audit.seal(sealed) == audit.Sealed(0, 0)
        assert audit.verify(sealed) == []
    assert audit.seal(sealed) == audit.Sealed(2, 1)
    [row] = event_seals.list_event_seal_entries(
        sealed, customer_id=ATLAS, event_ids=[mine.id], max_rows=9
    )
    assert (row.seal_number, row.event_ids[0]) == (2, mine.id)
    assert row.event_digests[0] == hashlib.sha256(canonical(sealed, mine.id).encode()).digest()


def canonical(conn, event_id):
    row = conn.execute("SELECT canonical_event(e) FROM events AS e WHERE id = %s", [event_id])
    return row.fetchone()[0]


def test_sealing_holds_nobody_up(sealed, database_url):
    events.create_event(sealed, customer_id=ATLAS, event_type="x")
    with connect(database_url) as sealer, sealer.transaction():
        assert len(event_seals.seal_events(sealer, max_events=10)) == 1
        sealed.execute("SET lock_timeout = '2s'")
        events.create_event(sealed, customer_id=ATLAS, event_type="meanwhile")
        customers.update_customer(sealed, id=ATLAS, name="Other")
        sealed.execute(
            "UPDATE workflow_executions SET heartbeat_at = now() WHERE status = 'running'"
        )
        assert audit.seal(sealed) == audit.Sealed(0, 0)
    assert audit.seal(sealed) == audit.Sealed(1, 1)
    assert audit.verify(sealed) == []


def test_many_sealers_and_writers_make_one_chain(database_url, conn):
    stop = threading.Event()
    failures = []

    def work(act):
        try:
            with connect(database_url) as own:
                while not stop.is_set():
                    act(own)
        except Exception as error:
            failures.append(error)

    def write(own):
        with own.transaction():
            for customer in (ATLAS, INDIE, NIMBUS):
                events.create_event(own, customer_id=customer, event_type="x")

    jobs = [write, write, *[lambda own: audit.seal(own, max_events=7)] * 3]
    threads = [threading.Thread(target=work, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    stop.wait(1.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    audit.seal(conn)
    assert audit.verify(conn) == []
    total, seals = conn.execute(
        "SELECT sum(cardinality(event_ids)), count(*) FROM event_seals"
    ).fetchone()
    assert conn.execute("SELECT count(*) FROM events").fetchone() == (total,)
    assert seals > 10


def test_ten_thousand_events_go_in_batches(conn):
    conn.execute(
        "INSERT INTO events (customer_id, event_type, data) "
        "SELECT (ARRAY[%s, %s]::uuid[])[1 + g %% 2], 'x', jsonb_build_object('n', g) "
        "FROM generate_series(1, 10000) AS g",
        [ATLAS, INDIE],
    )
    said = []
    done = audit.seal(conn, max_events=1000, say=said.append)
    assert done.events == conn.execute("SELECT count(*) FROM events").fetchone()[0]
    assert len(said) > 9
    assert audit.verify(conn) == []
    tamper(conn, "UPDATE events SET data = '{}' WHERE data @> '{\"n\": 7777}'")
    [found] = audit.verify(conn)
    assert found.problem == "an event was changed"


@pytest.mark.parametrize(
    "setting",
    ["TimeZone = 'Asia/Kathmandu'", "DateStyle = 'SQL, DMY'", "search_path = pg_catalog"],
)
def test_the_hashes_do_not_depend_on_the_session(sealed, setting):
    schema = sealed.execute("SELECT current_schema()").fetchone()[0]
    query = f"SELECT {schema}.canonical_event(e) FROM {schema}.events AS e ORDER BY id"
    before = sealed.execute(query).fetchall()
    sealed.execute(f"SET {setting}")
    assert sealed.execute(query).fetchall() == before
    sealed.execute("RESET search_path")
    assert audit.verify(sealed) == []


def test_the_canonical_form_is_this_for_ever(conn):
    event = events.create_event(
        conn,
        customer_id=ATLAS,
        id=UUID(int=1),
        created_at=datetime(2026, 2, 3, 4, 5, 6, 700000, timezone(timedelta(hours=1))),
        event_type='a "quote"',
        data={"z": 1.50, "a": [None, True, "Ä\u2028"], "longer": {}},
    )
    assert canonical(conn, event.id) == (
        '{"id": "00000000-0000-0000-0000-000000000001", "data": {"a": [null, true, "Ä\u2028"], '
        '"z": 1.5, "longer": {}}, "actor": "postgres", "severity": "info", '
        '"created_at": "2026-02-03T03:05:06.700000Z", "event_type": "a \\"quote\\"", '
        '"subject_id": null, "customer_id": "01941f29-7c00-7000-8000-000000000003", '
        '"subject_type": null}'
    )


def test_after_a_restore_what_was_sealed_is_still_proved_and_sealing_goes_on(sealed):
    """Of another server, whose transactions were further: their ids lie in the future here."""
    with without_triggers(sealed):
        sealed.execute("UPDATE events SET xact_id = '9000000000'")
        sealed.execute("UPDATE event_seals SET through_xact_id = '9000000000'")
    events.create_event(sealed, customer_id=ATLAS, event_type="not.sealed")
    sealed.execute("SELECT forget_event_xact_ids()")
    assert problems(sealed) == [(ATLAS, "an event was inserted", None)]
    assert audit.seal(sealed) == audit.Sealed(0, 0)
    events.create_event(sealed, customer_id=INDIE, event_type="new")
    assert audit.seal(sealed) == audit.Sealed(1, 1)
    assert problems(sealed, customer_id=INDIE) == []


def test_what_retention_dropped_may_be_missing(sealed):
    tamper(sealed, "DELETE FROM events WHERE id = EVENT")
    assert len(audit.verify(sealed)) == 1
    newest = sealed.execute("SELECT max(created_at) FROM events").fetchone()[0]
    assert audit.verify(sealed, kept_since=newest) == []


def test_deleting_an_agent_changes_nothing_that_is_sealed(sealed):
    sealed.execute("DELETE FROM agents")
    assert sealed.execute("SELECT count(*) FROM events WHERE agent_id IS NOT NULL").fetchone() == (
        0,
    )
    assert audit.verify(sealed) == []


# --- bundles


@pytest.fixture
def bundle(sealed, tmp_path):
    path = tmp_path / "atlas.jsonl"
    audit.export_bundle(sealed, path, customer_id=ATLAS)
    return path


def check(path, *options):
    """Verify a bundle by the script alone, elsewhere, without the package."""
    script = path.with_name("verify_bundle.py")
    shutil.copy(SCRIPT, script)
    done = subprocess.run(
        [sys.executable, "-I", script, path, *map(str, options)],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def records_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rewritten(path, records):
    """Write records as a bundle that is whole in itself."""
    lines = [json.dumps(record, ensure_ascii=False) for record in records[:-1]]
    body = "".join(f"{line}\n" for line in lines).encode()
    end = {"kind": "end", "lines": len(lines), "sha256": hashlib.sha256(body).hexdigest()}
    path.write_bytes(body + json.dumps(end).encode() + b"\n")


def test_a_bundle_proves_itself_by_a_script_alone(bundle, sealed):
    head = next(head for head in audit.heads(sealed) if head.customer_id == ATLAS)
    code, told = check(bundle)
    assert (code, head.hash in told) == (0, True)
    assert "OK: 8 events" in told
    assert check(bundle, "--head", f"1:{head.hash}")[0] == 0
    code, told = check(bundle, "--head", f"1:{'0' * 64}")
    assert (code, "not the head that was kept" in told) == (1, True)


def test_a_bundle_of_a_run_holds_that_run_and_is_compressed_by_its_name(sealed, tmp_path):
    path = tmp_path / "new" / "run.jsonl.gz"
    made = audit.export_bundle(sealed, path, customer_id=ATLAS, workflow_execution_id=COST_RUN)
    records = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    rows = [record for record in records if record["kind"] == "row"]
    assert {row["table"] for row in rows} >= {
        "customers",
        "workflow_executions",
        "workflow_steps",
        "workflow_artifacts",
        "recommendations",
        "approvals",
        "optimizations",
    }
    assert (made.rows, made.seals, made.events > 0) == (len(rows), 1, True)
    assert check(path)[0] == 0
    assert list(path.parent.glob(".*")) == []


def test_what_is_not_sealed_yet_is_said(sealed, tmp_path):
    events.create_event(sealed, customer_id=ATLAS, event_type="x")
    path = tmp_path / "b.jsonl"
    audit.export_bundle(sealed, path, customer_id=ATLAS)
    code, told = check(path)
    assert (code, "1 events were not sealed yet" in told) == (0, True)


def test_a_customer_without_events_has_a_bundle(conn, tmp_path):
    customer = customers.create_customer(
        conn, name="New", email="new@example.com", api_key_hash=bytes(32)
    )
    audit.seal(conn)
    audit.export_bundle(conn, tmp_path / "b", customer_id=customer.id)
    assert check(tmp_path / "b") == (0, "OK: 0 events, as they were sealed.\n")


def test_an_unknown_customer_or_run_leaves_no_file(sealed, tmp_path):
    with pytest.raises(NotFound):
        audit.export_bundle(sealed, tmp_path / "b", customer_id=uuid4())
    with pytest.raises(NotFound):
        audit.export_bundle(
            sealed, tmp_path / "b", customer_id=ATLAS, workflow_execution_id=uuid4()
        )
    assert list(tmp_path.iterdir()) == []
    assert sealed.isolation_level is None


def test_a_bundle_is_of_one_moment(sealed, database_url, tmp_path):
    with connect(database_url) as writer:
        made = audit.export_bundle(
            sealed,
            tmp_path / "b",
            customer_id=ATLAS,
            say=lambda _: events.create_event(writer, customer_id=ATLAS, event_type="x"),
        )
    assert made.events == 8
    assert check(tmp_path / "b")[0] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["event"][3].update(text=r["event"][3]["text"].replace("a", "b", 1)), "WRONG"),
        (lambda r: r["seal"][0].update(events_hash="22" * 32), "seal 1 was changed"),
        (lambda r: r["seal"][0].update(hash="00" * 32), "seal 1 was changed"),
        (lambda r: r["seal"][0].update(seal_number=2), "seal 1 is missing"),
        (lambda r: r["seal"][0].update(previous_hash="11" * 32), "does not go on"),
        (lambda r: r["entries"][0]["events"].pop(), "what seal 1 covers was changed"),
        (lambda r: r["entries"][0].update(events=None), "a record is not as it should be"),
        (lambda r: r["bundle"][0].update(customer_id=str(INDIE)), "of another customer"),
        (
            lambda r: [
                row["row"].update(status="failed")
                for row in r["row"]
                if row["table"] == "workflow_executions"
            ],
            "its last event says",
        ),
    ],
)
def test_a_bundle_that_was_changed_and_made_whole_again_is_wrong(bundle, change, said):
    records = records_of(bundle)
    change(
        {kind: [r for r in records if r["kind"] == kind] for kind in {r["kind"] for r in records}}
    )
    rewritten(bundle, records)
    code, told = check(bundle)
    assert (code, said in told) == (1, True), told


def test_a_bundle_from_which_an_event_was_left_out_is_wrong(bundle):
    records = records_of(bundle)
    records.remove(next(record for record in records if record["kind"] == "event"))
    rewritten(bundle, records)
    code, told = check(bundle)
    assert (code, "is sealed, and missing here" in told) == (1, True)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None
)
@given(st.data())
def test_no_flipped_bit_or_cut_goes_unnoticed(bundle, data):
    whole = bundle.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        changed = whole[:at]
    else:
        flipped = whole[at] ^ (1 << data.draw(st.integers(0, 7)))
        changed = whole[:at] + bytes([flipped]) + whole[at + 1 :]
    path = bundle.with_name("changed")
    path.write_bytes(changed)
    try:
        records = verify_bundle.read(path)
    except (verify_bundle.NotABundle, ValueError, OSError, EOFError):
        return
    found, _ = verify_bundle.verify(records)
    assert found or records == records_of(bundle)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{}\n", b"[1]\n", b"\x1f\x8bx", b"\xff\xfe\n", b"x"]
)
def test_what_is_no_bundle_is_told_so(tmp_path, content):
    path = tmp_path / "b"
    path.write_bytes(content)
    code, told = check(path)
    assert (code, "not a whole bundle" in told) == (2, True)
    assert check(tmp_path / "missing")[0] == 2


def test_files_of_artifacts_are_compared(conn, tmp_path):
    content = b"what the step left"
    with without_triggers(conn):
        conn.execute(
            "UPDATE workflow_artifacts "
            "SET artifact_path = 's3://b/report-' || id || '.txt', "
            "sha256 = %s WHERE customer_id = %s",
            [hashlib.sha256(content).digest(), ATLAS],
        )
    audit.seal(conn)
    audit.export_bundle(conn, tmp_path / "b", customer_id=ATLAS, workflow_execution_id=COST_RUN)
    names = [
        record["row"]["artifact_path"].rpartition("/")[2]
        for record in records_of(tmp_path / "b")
        if record.get("table") == "workflow_artifacts"
    ]
    for name in names:
        (tmp_path / name).write_bytes(content)
    assert check(tmp_path / "b", "--artifacts", tmp_path)[0] == 0
    (tmp_path / names[0]).write_bytes(b"other")
    code, told = check(tmp_path / "b", "--artifacts", tmp_path)
    assert (code, "has other content" in told) == (1, True)
    (tmp_path / names[0]).unlink()
    assert "there is no" in check(tmp_path / "b", "--artifacts", tmp_path)[1]
