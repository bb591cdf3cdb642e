"""API keys and their hashes: what the server notes of them, and what errors and logs say."""

import hashlib
import io
import logging
import traceback

import pytest

from optiinfra_db import api_keys, connect
from optiinfra_db.errors import AlreadyExists, InvalidApiKey, InvalidValue
from optiinfra_db.generated import customers
from optiinfra_db.seed import ATLAS, seed

from .conftest import SECRET


@pytest.fixture(scope="module")
def url(watched_url):
    with connect(watched_url) as conn:
        seed(conn)
    return watched_url


def told(error):
    """Return all that a log shows of an error, with the errors it came from."""
    return "".join([*traceback.format_exception(error), repr(error), str(vars(error))])


def test_a_key_is_shown_once_and_its_hash_never(url, caplog):
    stream = io.StringIO()
    logging.basicConfig(stream=stream, level=logging.DEBUG, force=True)
    shown = []
    with connect(url) as conn:
        new = api_keys.rotate(conn, customer_id=ATLAS)
        key = new.key.get_secret_value()
        digest = hashlib.sha256(key.encode()).digest()
        shown += [repr(new), str(new), repr(api_keys.authenticate(conn, key))]
        for attempt in (
            lambda: customers.create_customer(
                conn, name="x", email="x@example.com", api_key_hash=digest
            ),
            lambda: customers.create_customer(
                conn, name="", email="x@example.com", api_key_hash=digest
            ),
            lambda: api_keys.authenticate(conn, key[:-1]),
            lambda: api_keys.authenticate(conn, api_keys.generate()),
        ):
            with pytest.raises((AlreadyExists, InvalidValue, InvalidApiKey)) as caught:
                attempt()
            shown += [repr(caught.value), str(caught.value), str(vars(caught.value))]
        api_keys.revoke(conn, customer_id=ATLAS, id=new.row.id)
        noted = conn.execute(
            "SELECT string_agg(query, ' ') FROM (SELECT query FROM pg_stat_statements "
            "UNION ALL SELECT query FROM pg_stat_activity) AS q"
        ).fetchone()[0]
    everything = "".join([*shown, noted, caplog.text, stream.getvalue()])
    assert "authenticate_api_key" in noted
    assert key not in everything
    assert digest.hex() not in everything.lower()
    assert SECRET not in everything


def test_who_may_not_read_the_hash_is_not_told_it_by_postgresql_either(url):
    with connect(url) as conn:
        digest = hashlib.sha256(b"x").digest()
        customers.create_customer(conn, name="x", email="y@example.com", api_key_hash=digest)
        conn.execute("SET ROLE optiinfra_service")
        with pytest.raises(AlreadyExists) as caught:
            customers.create_customer(conn, name="x", email="z@example.com", api_key_hash=digest)
        with pytest.raises(InvalidValue) as also:
            customers.create_customer(
                conn, name="x", email="z@example.com", api_key_hash=digest[1:]
            )
    assert digest[1:].hex() not in told(caught.value) + told(also.value)


def test_no_statement_of_ours_holds_a_value(url):
    """What the package sent is in pg_stat_statements as it is in queries/, with parameters."""
    with connect(url) as conn:
        customers.update_customer(conn, id=ATLAS, name="a very secret name")
        with connect(url, actor="a very secret actor"):
            pass
        queries = conn.execute("SELECT query FROM pg_stat_statements").fetchall()
    assert len(queries) >= 5
    assert not [query for (query,) in queries if "a very secret" in query]
