from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from psycopg.errors import InsufficientPrivilege

from optiinfra_db.errors import AlreadyExists, InvalidValue, NotFound
from optiinfra_db.generated.models import CustomerPlan, CustomerStatus

from .database import key

ID = UUID("01941f29-7c00-7000-8000-0000000000ff")
HASH = b"\1" * 32
DAY = timedelta(days=1)


def new_hash():
    return uuid4().bytes * 2


def keys_of(db, customer):
    return db.api_keys.list_api_keys(customer_id=customer.id)


def rotate(db, customer, **given):
    values = {"customer_id": customer.id, "api_key_hash": new_hash(), "overlap": DAY}
    return db.api_keys.rotate_api_key(**values | given)


def authenticate(db, api_key_hash=HASH):
    return db.api_keys.authenticate_api_key(api_key_hash=api_key_hash)


def set_key(db, key, expression):
    db.execute(f"UPDATE api_keys SET {expression} WHERE id = '{key.id}'")


def test_a_key_is_added_to_those_that_are_there(db):
    customer = db.make_customer()
    (first,) = keys_of(db, customer)
    expires_at = datetime(2999, 1, 1, tzinfo=UTC)

    added = db.api_keys.create_api_key(
        customer_id=customer.id, api_key_hash=HASH, expires_at=expires_at
    )

    assert (added.customer_id, added.expires_at) == (customer.id, expires_at)
    assert (added.revoked_at, added.last_used_at, added.id.version) == (None, None, 7)
    assert keys_of(db, customer) == [added, first]


def test_no_query_returns_the_hash(db):
    customer = db.make_customer(api_key_hash=HASH)
    added = db.api_keys.create_api_key(customer_id=customer.id, api_key_hash=new_hash())
    rotated = rotate(db, customer)
    revoked = db.api_keys.revoke_api_key(**key(added))

    for row in (customer, added, rotated, revoked, authenticate(db), *keys_of(db, customer)):
        assert "api_key_hash" not in {field.name for field in fields(row)}
        assert not any(isinstance(value, bytes) for value in asdict(row).values())


def test_adding_or_rotating_twice_with_one_id_returns_the_first(db):
    customer = db.make_customer()
    added = db.api_keys.create_api_key(customer_id=customer.id, id=ID, api_key_hash=HASH)

    for api_key_hash in (HASH, new_hash()):
        again = {"customer_id": customer.id, "id": ID, "api_key_hash": api_key_hash}
        assert db.api_keys.create_api_key(**again) == added
        assert rotate(db, customer, **again, overlap=timedelta(0)) == added
    assert authenticate(db).problem is None
    assert len(keys_of(db, customer)) == 2


def test_rotating_lets_the_other_valid_keys_expire_after_the_overlap(db):
    customer, other = db.make_customer(), db.make_customer()
    (old,) = keys_of(db, customer)
    soon, late, revoked = (
        db.api_keys.create_api_key(
            customer_id=customer.id,
            api_key_hash=new_hash(),
            expires_at=datetime.now(UTC) + after,
        )
        for after in (DAY / 2, 2 * DAY, 2 * DAY)
    )
    revoked = db.api_keys.revoke_api_key(**key(revoked))

    before = datetime.now(UTC)
    new = rotate(db, customer)
    after = datetime.now(UTC)

    by_id = {one.id: one for one in keys_of(db, customer)}
    assert new.expires_at is None
    assert by_id[new.id] == new
    for shortened in (old, late):
        assert before + DAY <= by_id[shortened.id].expires_at <= after + DAY
    assert (by_id[soon.id], by_id[revoked.id]) == (soon, revoked)
    assert [one.expires_at for one in keys_of(db, other)] == [None]


def test_rotating_without_an_overlap_makes_the_others_invalid_at_once(db):
    customer = db.make_customer(api_key_hash=HASH)

    new = rotate(db, customer, api_key_hash=b"\2" * 32, overlap=timedelta(0))

    assert authenticate(db).problem == "expired"
    found = authenticate(db, b"\2" * 32)
    assert (found.api_key_id, found.problem) == (new.id, None)


@pytest.mark.parametrize(
    "overlap", [timedelta(microseconds=-1), timedelta(days=366), timedelta.max, timedelta.min]
)
def test_an_overlap_out_of_range_is_refused(db, overlap):
    customer = db.make_customer()

    with db.refused(InvalidValue) as caught:
        rotate(db, customer, overlap=overlap)

    assert caught.value.field == "overlap"
    assert [one.expires_at for one in keys_of(db, customer)] == [None]


def test_a_key_of_nobody_is_refused(db):
    values = {"customer_id": ID, "api_key_hash": HASH}
    with db.refused(NotFound, "api_keys_customer_id_fkey"):
        db.api_keys.create_api_key(**values)
    with db.refused(NotFound, "api_keys_customer_id_fkey"):
        db.api_keys.rotate_api_key(**values, overlap=DAY)


def test_a_hash_that_is_taken_or_no_digest_is_refused(db):
    customer, other = db.make_customer(), db.make_customer(api_key_hash=HASH)
    for api_key_hash, error in ((HASH, AlreadyExists), (b"short", InvalidValue)):
        with db.refused(error) as caught:
            db.api_keys.create_api_key(customer_id=customer.id, api_key_hash=api_key_hash)
        assert caught.value.field == "api_key_hash"
        with db.refused(error) as caught:
            rotate(db, customer, api_key_hash=api_key_hash)
        assert caught.value.field == "api_key_hash"
    assert [one.expires_at for one in keys_of(db, customer)] == [None]
    assert authenticate(db).customer_id == other.id


def test_a_revoked_key_is_invalid_for_good(db):
    customer = db.make_customer(api_key_hash=HASH)
    (first,) = keys_of(db, customer)

    revoked = db.api_keys.revoke_api_key(**key(first))

    assert revoked.revoked_at is not None
    assert authenticate(db).problem == "revoked"
    set_key(db, first, "expires_at = now()")
    assert authenticate(db).problem == "revoked"
    assert db.api_keys.revoke_api_key(**key(first)) is None
    other = db.make_customer()
    assert db.api_keys.revoke_api_key(customer_id=other.id, id=first.id) is None


def test_authenticating_tells_whose_key_it_is(db):
    customer = db.make_customer(api_key_hash=HASH, plan=CustomerPlan.STARTUP, name="Atlas")
    (first,) = keys_of(db, customer)

    found = authenticate(db)

    assert (found.customer_id, found.api_key_id) == (customer.id, first.id)
    assert (found.name, found.plan, found.status) == (
        "Atlas",
        CustomerPlan.STARTUP,
        CustomerStatus.ACTIVE,
    )
    assert found.problem is None
    assert authenticate(db, new_hash()) is None
    assert authenticate(db, b"") is None
    db.customers.update_customer(id=customer.id, status=CustomerStatus.CHURNED)
    assert authenticate(db).status is CustomerStatus.CHURNED


def test_the_use_of_a_key_is_noted_once_a_minute(db):
    customer = db.make_customer(api_key_hash=HASH)
    authenticate(db)
    (used,) = keys_of(db, customer)
    assert abs(datetime.now(UTC) - used.last_used_at) < timedelta(minutes=1)

    authenticate(db)
    assert keys_of(db, customer) == [used]

    set_key(db, used, "last_used_at = now() - interval '61 s'")
    authenticate(db)
    (again,) = keys_of(db, customer)
    assert again.last_used_at > used.last_used_at


@pytest.mark.parametrize("change", ["revoked_at = now()", "expires_at = now()"])
def test_the_use_of_an_invalid_key_is_not_noted(db, change):
    customer = db.make_customer(api_key_hash=HASH)
    (first,) = keys_of(db, customer)
    set_key(db, first, change)

    authenticate(db)

    assert [one.last_used_at for one in keys_of(db, customer)] == [None]


def test_deleting_a_customer_deletes_its_keys(db):
    customer = db.make_customer(api_key_hash=HASH)
    db.customers.delete_customer(id=customer.id)

    assert keys_of(db, customer) == []
    assert authenticate(db) is None


@pytest.fixture
def as_service(db):
    """Become a role with the rights that the functions need, and none to read a hash."""
    for statement in ("CREATE ROLE service IN ROLE optiinfra_service", "SET LOCAL ROLE service"):
        db.execute(statement)


def test_who_may_not_read_a_hash_can_do_all_else(db, as_service):
    customer = db.make_customer(id=ID, api_key_hash=HASH)
    assert db.make_customer(id=ID) == customer

    added = db.api_keys.create_api_key(
        customer_id=ID, id=uuid4(), api_key_hash=new_hash(), expires_at=datetime.now(UTC) + 2 * DAY
    )
    again = {"customer_id": ID, "id": added.id, "api_key_hash": new_hash()}
    assert db.api_keys.create_api_key(**again) == added
    assert rotate(db, customer, **again) == added
    new = rotate(db, customer)
    assert len([one for one in keys_of(db, customer) if one.expires_at]) == 2
    assert db.api_keys.revoke_api_key(**key(new)).revoked_at is not None
    assert authenticate(db).customer_id == ID
    with db.refused(AlreadyExists, "api_keys_api_key_hash_key"):
        rotate(db, customer, api_key_hash=HASH)
    for statement in (
        "SELECT api_key_hash FROM api_keys",
        "SELECT * FROM api_keys",
        f"SELECT id FROM api_keys WHERE api_key_hash = sha256('{ID}')",
        "UPDATE api_keys SET api_key_hash = sha256('')",
        "UPDATE api_keys SET last_used_at = now()",
    ):
        with db.refused(InsufficientPrivilege):
            db.execute(statement)


def test_only_who_was_granted_it_may_authenticate(db, as_service):
    db.execute("RESET ROLE")
    db.execute("REVOKE EXECUTE ON FUNCTION authenticate_api_key(bytea) FROM optiinfra_service")
    db.execute("SET LOCAL ROLE service")

    with db.refused(InsufficientPrivilege):
        authenticate(db)


def test_authenticating_reads_no_table_that_the_caller_puts_in_its_way(db, as_service):
    db.make_customer(api_key_hash=HASH)
    db.execute("RESET ROLE")
    db.execute("CREATE TEMPORARY TABLE api_keys (LIKE api_keys)")
    db.execute("SET LOCAL ROLE service")

    assert authenticate(db).problem is None
