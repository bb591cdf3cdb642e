import asyncio
import dataclasses
import logging
import re
import traceback
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import uuid4

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from optiinfra_db import api_keys, connect, connect_async
from optiinfra_db.errors import (
    AccessRefused,
    ConnectionLost,
    CustomerChurned,
    CustomerSuspended,
    InvalidApiKey,
    InvalidValue,
    NotFound,
)
from optiinfra_db.generated import api_keys as queries
from optiinfra_db.generated import customers
from optiinfra_db.generated.models import CustomerStatus

keys = st.builds(api_keys.generate)
places = st.integers(0, 51)


# What a key looks like


@given(keys)
def test_every_generated_key_is_well_formed(key):
    assert api_keys.is_well_formed(key)
    assert len(key) == 52
    assert re.findall(api_keys.API_KEY_PATTERN, f"key={key}, {key};") == [key, key]
    assert key.isascii()


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_the_smallest_and_the_largest_key_are_as_long_as_others(monkeypatch, byte):
    monkeypatch.setattr(api_keys.secrets, "token_bytes", lambda size: byte * size)
    key = api_keys.generate()
    assert api_keys.is_well_formed(key)
    assert len(key) == 52


def test_generated_keys_differ_in_every_place():
    made = [api_keys.generate() for _ in range(2000)]
    assert len(set(made)) == len(made)
    for place in range(4, 46):  # the first digit and that of the checksum are not of 62 values
        assert len({key[place] for key in made}) == 62


@given(keys, places, st.characters())
def test_any_changed_character_is_noticed(key, place, character):
    assume(key[place] != character)
    assert not api_keys.is_well_formed(key[:place] + character + key[place + 1 :])


@given(keys, places, places)
def test_any_two_swapped_characters_are_noticed(key, one, other):
    assume(key[one] != key[other])
    swapped = list(key)
    swapped[one], swapped[other] = key[other], key[one]
    assert not api_keys.is_well_formed("".join(swapped))


@given(keys, places)
def test_a_missing_or_doubled_character_is_noticed(key, place):
    assert not api_keys.is_well_formed(key[:place] + key[place + 1 :])
    assert not api_keys.is_well_formed(key[:place] + key[place] + key[place:])


@given(st.text())
def test_other_text_is_no_key(text):
    assert not api_keys.is_well_formed(text)
    assert len(api_keys.hash_api_key(text)) == 32


@pytest.mark.parametrize("around", ["{} ", "\n{}", "{}\n", "Bearer {}", "{}\0"])
def test_a_key_with_something_around_it_is_none(around):
    assert not api_keys.is_well_formed(around.format(api_keys.generate()))


def test_the_format_stays_as_it_is(monkeypatch):
    """A key that was handed out is one for ever."""
    monkeypatch.setattr(api_keys.secrets, "token_bytes", lambda size: bytes(range(size)))
    assert api_keys.generate() == "oi_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf1Yo7hP"


@given(keys, keys)
def test_a_key_is_verified_by_its_hash_only(key, other):
    api_key_hash = api_keys.hash_api_key(key)
    assert api_key_hash == sha256(key.encode()).digest()
    assert api_keys.verify(key, api_key_hash)
    assert not api_keys.verify(other, api_key_hash)
    assert not api_keys.verify(key, b"")


# Both worlds


class Calls:
    """The functions of the module on a connection, or their asynchronous twins, awaited."""

    def __init__(self, call, suffix):
        self._call = call
        self._suffix = suffix

    def __getattr__(self, name):
        function = getattr(api_keys, f"{name}{self._suffix}")
        return lambda *args, **kwargs: self._call(function, *args, **kwargs)


@pytest.fixture(params=["sync", "async"])
def calls(request, database_url):
    if request.param == "sync":
        with connect(database_url) as conn:
            yield Calls(lambda function, *args, **kwargs: function(conn, *args, **kwargs), "")
        return
    with asyncio.Runner() as runner:
        aconn = runner.run(connect_async(database_url))
        yield Calls(
            lambda function, *args, **kwargs: runner.run(function(aconn, *args, **kwargs)), "_async"
        )
        runner.run(aconn.close())


@pytest.fixture
def conn(database_url):
    with connect(database_url) as conn:
        yield conn


@pytest.fixture
def customer(conn):
    return customers.create_customer(
        conn, name="Atlas", email="ops@atlas.example", api_key_hash=bytes(32)
    )


def secret(new):
    return new.key.get_secret_value()


def refused(calls, key, error=InvalidApiKey):
    with pytest.raises(error) as caught:
        calls.authenticate(key)
    return caught.value


def test_a_made_key_lets_its_customer_in(calls, conn, customer):
    new = calls.create(customer_id=customer.id)

    found = calls.authenticate(secret(new))

    assert (found.customer_id, found.name, found.plan, found.status) == (
        customer.id,
        customer.name,
        customer.plan,
        customer.status,
    )
    assert found.api_key_id == new.row.id
    stored = conn.execute("SELECT api_key_hash FROM api_keys WHERE id = %s", [new.row.id])
    assert api_keys.verify(secret(new), stored.fetchone()[0])


def test_rotating_leaves_the_old_key_valid_for_the_overlap(calls, customer):
    old = calls.create(customer_id=customer.id)

    new = calls.rotate(customer_id=customer.id)
    for key in (old, new):
        assert calls.authenticate(secret(key)).customer_id == customer.id

    newest = calls.rotate(customer_id=customer.id, overlap=timedelta(0))
    for key in (old, new):
        assert refused(calls, secret(key)).reason == "expired"
    assert calls.authenticate(secret(newest)).api_key_id == newest.row.id


def test_the_overlap_is_a_day_unless_given(calls, conn, customer):
    before = datetime.now(UTC)
    calls.rotate(customer_id=customer.id)
    after = datetime.now(UTC)

    *_, old = queries.list_api_keys(conn, customer_id=customer.id)
    assert before <= old.expires_at - timedelta(days=1) <= after


def test_a_key_may_be_made_to_expire(calls, conn, customer):
    now = datetime.now(UTC)
    for after, is_valid in ((timedelta(hours=1), True), (timedelta(0), False)):
        new = calls.create(customer_id=customer.id, expires_at=now + after)
        assert new.row.expires_at == now + after
        if is_valid:
            assert calls.authenticate(secret(new))
        else:
            assert refused(calls, secret(new)).reason == "expired"


def test_a_revoked_key_lets_nobody_in(calls, customer):
    new = calls.create(customer_id=customer.id)

    revoked = calls.revoke(customer_id=customer.id, id=new.row.id)

    assert revoked.revoked_at is not None
    assert refused(calls, secret(new)).reason == "revoked"
    assert calls.revoke(customer_id=customer.id, id=new.row.id) is None


def test_the_caller_is_not_told_what_is_wrong_with_a_key(calls, customer):
    expired = calls.create(customer_id=customer.id)
    revoked = calls.rotate(customer_id=customer.id, overlap=timedelta(0))
    calls.revoke(customer_id=customer.id, id=revoked.row.id)

    presented = (secret(expired), secret(revoked), api_keys.generate(), "secret", "", "\ud800")
    errors = [refused(calls, key) for key in presented]

    assert [error.reason for error in errors] == ["expired", "revoked", "unknown"] + [
        "malformed"
    ] * 3
    assert len({(str(error), repr(error)) for error in errors}) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [(CustomerStatus.SUSPENDED, CustomerSuspended), (CustomerStatus.CHURNED, CustomerChurned)],
)
def test_a_customer_that_is_not_active_is_not_let_in(calls, conn, customer, status, error):
    new = calls.create(customer_id=customer.id)
    customers.update_customer(conn, id=customer.id, status=status)

    caught = refused(calls, secret(new), error)

    assert isinstance(caught, AccessRefused)
    assert str(customer.id) in str(caught)
    calls.revoke(customer_id=customer.id, id=new.row.id)
    assert refused(calls, secret(new)).reason == "revoked"


def test_a_key_of_nobody_or_with_a_wrong_overlap_is_not_made(calls, conn, customer):
    for make in (calls.create, calls.rotate):
        with pytest.raises(NotFound) as caught:
            make(customer_id=uuid4())
        assert caught.value.field == "customer_id"
    with pytest.raises(InvalidValue) as caught:
        calls.rotate(customer_id=customer.id, overlap=timedelta(seconds=-1))
    assert caught.value.field == "overlap"
    assert len(queries.list_api_keys(conn, customer_id=customer.id)) == 1


def test_a_malformed_key_is_refused_without_the_database(conn):
    conn.close()
    with pytest.raises(InvalidApiKey):
        api_keys.authenticate(conn, "oi_" + "x" * 49)
    with pytest.raises(ConnectionLost):
        api_keys.authenticate(conn, api_keys.generate())


# Nothing shows a key


def test_a_new_key_is_shown_by_nothing_but_on_demand(conn, customer, caplog):
    new = api_keys.create(conn, customer_id=customer.id)

    logging.getLogger("test").warning("made %s, %r, %s", new, new, dataclasses.asdict(new))

    shown = f"{new} {new!r} {new.key} {dataclasses.astuple(new)} {caplog.text}"
    assert secret(new).removeprefix("oi_") not in shown
    assert shown.count("SecretStr('**********')") == 6


def shown_by(error):
    """Return what a report of an error shows, with the variables of all frames but ours."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    for part in filter(None, (report, report.__cause__)):
        part.stack[:] = [frame for frame in part.stack if frame.filename != __file__]
    return "".join(report.format())


def test_no_report_of_an_error_shows_a_key(calls, conn, customer, monkeypatch):
    made = []
    generate = api_keys.generate
    monkeypatch.setattr(api_keys, "generate", lambda: made.append(generate()) or made[-1])
    calls.rotate(customer_id=customer.id)
    calls.rotate(customer_id=customer.id, overlap=timedelta(0))
    expired, _ = made
    for key in (expired, generate(), f"{expired}x", expired[:-1]):
        made.append(key)
        told = shown_by(refused(calls, key))
        assert "    api_key_hash = " in told
        assert not [key for key in made if key in told]
    customers.update_customer(conn, id=customer.id, status=CustomerStatus.SUSPENDED)
    told = shown_by(refused(calls, made[1], CustomerSuspended))
    assert not [key for key in made if key in told]

    for make in (calls.create, calls.rotate):
        with pytest.raises(NotFound) as caught:
            make(customer_id=uuid4())
        told = shown_by(caught.value)
        assert "    key = SecretStr('**********')" in told
        assert not [key for key in made if key in told]
