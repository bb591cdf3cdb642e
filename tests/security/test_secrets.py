"""Passwords, keys and what customers wrote stay out of errors, logs, traces and the server's views.

Out of reach is what prints the variables of every frame, as `capture_locals` of `traceback` does.
"""

import asyncio
import contextlib
import logging
import re
import socket
import threading
import traceback
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from optiinfra_db import connect, connect_async, pool, pool_async
from optiinfra_db.connection import Session
from optiinfra_db.errors import DatabaseError, DatabaseUnreachable, OptiInfraError
from optiinfra_db.feed import START, Feed
from optiinfra_db.generated import customers
from optiinfra_db.migrate import migrate, rollback, status
from optiinfra_db.payloads import ErrorDetails
from optiinfra_db.settings import Settings
from optiinfra_db.telemetry import OptiInfraInstrumentor

from .conftest import SECRET
from .test_command_line import run as run_command

ROOT = Path(__file__).parents[2]
ODD_SECRET = "p%40ss%2Fw%3Ard%3F"
"""Percent-encoded, of p@ss/w:rd?; both forms must not be shown."""
PLAIN = {SECRET: SECRET, ODD_SECRET: "p@ss/w:rd?"}
PAYLOAD = "what-the-customer-wrote"


@pytest.fixture
def records(caplog):
    """Collect what is logged, at every level and by everyone."""
    caplog.set_level(logging.DEBUG)
    for name in ("psycopg", "psycopg.pool", "optiinfra_db.workflows", "asyncio", "yoyo"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


def echo(listener):
    """Answer in no protocol, with what was sent."""
    with contextlib.suppress(OSError):
        while True:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"E" + peer.recv(4096))


@pytest.fixture
def ports():
    """Provide a port on which nobody listens, one where nobody answers, one of an odd answer."""
    with socket.socket() as unused, socket.socket() as silent, socket.socket() as odd:
        for bound in (unused, silent, odd):
            bound.bind(("127.0.0.1", 0))
        silent.listen()
        odd.listen()
        threading.Thread(target=echo, args=[odd], daemon=True).start()
        yield [bound.getsockname()[1] for bound in (unused, silent, odd)]


def with_feed(url):
    list(Feed(url, after=START))


def with_pool(url):
    with pool(url, min_size=1) as connections:
        connections.wait(timeout=0.3)


def with_pool_async(url):
    async def wait():
        async with pool_async(url, min_size=1) as connections:
            await connections.wait(timeout=0.3)

    asyncio.run(wait())


WAYS = [
    connect,
    lambda url: asyncio.run(connect_async(url)),
    migrate,
    rollback,
    status,
    with_feed,
    with_pool,
    with_pool_async,
]


def attempts(ports, secret):
    """Yield URLs that lead nowhere, each for another reason."""
    closed, _, odd = ports
    credentials = f"someone:{secret}@"
    yield f"postgresql://{credentials}127.0.0.1:{closed}/somewhere"
    yield f"postgresql://{credentials}no-such-host.invalid/somewhere"
    yield f"postgresql://{credentials}127.0.0.1:{odd}/somewhere"
    yield f"postgresql://127.0.0.1:{closed}/somewhere?user=someone&password={secret}"
    yield f"postgresql://{credentials}127.0.0.1:port/somewhere"
    yield f"postgresql://{credentials}127.0.0.1:{closed}/somewhere?no_such_option=1"
    yield f"postgresql://{credentials}127.0.0.1:{closed}/somewhere?sslmode=no-such-mode"
    yield f"postgresql://{credentials}127.0.0.1:{closed}/somewhere?target_session_attrs=none"
    yield f"postgresql://{credentials}/%00"
    yield f"mysql://{credentials}127.0.0.1/somewhere"
    yield f"{credentials}127.0.0.1/somewhere"
    yield f"host=127.0.0.1 port={closed} user=someone password={secret}"
    yield f"password={secret}"


def assert_secret(text, secret=SECRET):
    for form in {secret, PLAIN.get(secret, secret)}:
        assert form not in text, text


@pytest.mark.parametrize("secret", [SECRET, ODD_SECRET])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: getattr(way, "__name__", ""))
def test_no_error_and_no_log_shows_the_password(way, secret, records, ports):
    for url in attempts(ports, secret):
        with pytest.raises((OptiInfraError, psycopg.Error)) as caught:
            way(url)
        assert_secret("".join(traceback.format_exception(caught.value)), secret)
        assert_secret(repr(caught.value) + repr(vars(caught.value)), secret)
    assert_secret(records.text, secret)


@pytest.mark.parametrize("way", WAYS[:2], ids=lambda way: getattr(way, "__name__", ""))
def test_a_server_that_does_not_answer_is_told_without_the_password(way, records, ports):
    with pytest.raises(DatabaseUnreachable, match="timeout") as caught:
        way(f"postgresql://someone:{SECRET}@127.0.0.1:{ports[1]}/somewhere?connect_timeout=2")
    assert_secret("".join(traceback.format_exception(caught.value)) + records.text)


@pytest.fixture
def login_url(empty_database_url):
    """Name a role that has a password; those of the test server need none, nor is one asked for."""
    role = f"role_{uuid4().hex}"
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
    yield empty_database_url.replace("postgres@", f"{role}:{SECRET}@")
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.mark.parametrize("way", WAYS[:6], ids=lambda way: getattr(way, "__name__", ""))
def test_who_is_not_let_in_is_told_without_the_password(way, login_url, records):
    with pytest.raises(DatabaseUnreachable) as caught:
        way(login_url)
    assert_secret("".join(traceback.format_exception(caught.value)) + records.text)


def test_no_command_shows_the_password(ports, monkeypatch):
    monkeypatch.setenv("OPTIINFRA_DATA_DIR", "/nonexistent/optiinfra")
    for url in attempts(ports, SECRET):
        for args in (["status"], ["migrate"], ["customers", "list"], ["feed"]):
            for given in ([], [f"--database-url={url}"]):
                code, output = run_command(monkeypatch, *args, *given, url=url)
                assert code in {2, 3}, output
                assert_secret(output)


def test_nothing_that_holds_the_url_shows_the_password(database_url, monkeypatch):
    url = database_url.replace("postgres@", f"postgres:{SECRET}@")
    monkeypatch.setenv("OPTIINFRA_DATABASE_URL", url)
    settings = Settings()
    shown = [repr(settings), str(settings), repr(settings.model_dump())]
    with connect(url) as conn:
        assert conn.info.password == SECRET
        session = Session.of(conn)
        shown += [repr(conn), repr(conn.info), repr(session), str(session)]
    with pool(url) as connections, connections.connection() as conn:
        shown += [repr(connections), str(connections.get_stats()), repr(conn)]
    shown += [repr(Feed(url, after=START))]
    assert_secret("".join(shown))


def test_errors_of_a_statement_hold_neither_the_password_nor_what_is_in_other_columns(
    database_url, records
):
    url = database_url.replace("postgres@", f"postgres:{SECRET}@")
    with connect(url) as conn:
        given = {
            "email": "a@b.example",
            "api_key_hash": bytes(range(32)),
            "metadata": {"note": PAYLOAD},
        }
        customers.create_customer(conn, name=PAYLOAD, **given)
        for changed in ({"name": ""}, {"name": "x"}, {"name": "x", "email": "no address"}):
            with pytest.raises(DatabaseError) as caught:
                customers.create_customer(conn, **(given | changed))
            shown = str(caught.value) + repr(caught.value)
            assert PAYLOAD not in shown
            assert bytes(range(32)).hex() not in shown
            assert_secret("".join(traceback.format_exception(caught.value)))
            kept = ErrorDetails.of(caught.value).model_dump_json()  # as the recorder does
            assert PAYLOAD not in kept
            assert bytes(range(8)).hex() not in kept
    assert PAYLOAD not in records.text
    assert_secret(records.text)


def test_spans_hold_no_parameters_and_no_password(database_url):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = OptiInfraInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        with connect(database_url.replace("postgres@", f"postgres:{SECRET}@")) as conn:
            create = {"email": "a@b.example", "api_key_hash": bytes(range(32))}
            customers.create_customer(conn, name=PAYLOAD, **create)
            customers.get_customer_by_email(conn, email=f"{PAYLOAD}@b.example")
            with pytest.raises(DatabaseError):
                customers.create_customer(conn, name=PAYLOAD, **create)
            with pytest.raises(DatabaseError):
                customers.create_customer(conn, name=f"{PAYLOAD}\ud800", **create)
    finally:
        instrumentor.uninstrument()
    spans = exporter.get_finished_spans()
    assert len(spans) == 4
    shown = "".join(span.to_json() for span in spans)
    assert PAYLOAD not in shown
    assert "a@b.example" not in shown
    assert_secret(shown)


# What the server shows of a statement


def test_the_server_keeps_no_value_of_a_statement(watched_url):
    with connect(watched_url) as conn, connect(watched_url) as other:
        create = {"email": f"{PAYLOAD}@b.example", "api_key_hash": bytes(range(32))}
        for number in range(8):  # prepared from the fifth on
            with contextlib.suppress(DatabaseError):
                customers.create_customer(conn, name=PAYLOAD, **create)
            customers.get_customer_by_email(conn, email=f"{PAYLOAD}{number}@b.example")
            customers.list_customers(conn, max_rows=10)
            last = other.execute(
                "SELECT query FROM pg_stat_activity WHERE pid = %s", [conn.info.backend_pid]
            ).fetchone()[0]
            assert "-- name: list_customers" in last
        shown = "".join(
            query for (query,) in other.execute("SELECT query FROM pg_stat_statements")
        ) + "".join(query for (query,) in other.execute("SELECT query FROM pg_stat_activity"))
    assert "INSERT INTO customers" in shown
    assert PAYLOAD not in shown
    assert bytes(range(32)).hex() not in shown
    assert_secret(shown)
    assert "PASSWORD" not in shown.upper()


def test_no_statement_of_ours_sets_a_password():
    places = [ROOT / name for name in ("queries", "schema", "generated", "optiinfra_db")]
    for place in places:
        for file in place.rglob("*"):
            if file.suffix in {".py", ".sql"}:
                text = file.read_text()
                assert not re.search(r"(ROLE|USER)\b[^;]*\bPASSWORD\s+['%{$]", text, re.I), file
