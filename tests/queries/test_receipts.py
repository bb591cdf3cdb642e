from uuid import uuid4

import pytest

from optiinfra_db.errors import ImmutableHistory, InvalidValue, typed_errors


def create(db, **given):
    return db.receipts.create_receipt(
        **{"operation": "prune", "row_counts": {"workflow_executions": 1}} | given
    )


def test_receipts_are_listed_newest_first_page_by_page(db):
    db.execute("SET LOCAL optiinfra.actor = 'ada'")
    customer_id = uuid4()  # whoever it was is gone
    made = [create(db), create(db, customer_id=customer_id), create(db, operation="erase")]
    assert [receipt.actor for receipt in made] == ["ada"] * 3
    assert db.receipts.list_receipts(max_rows=2) == [made[2], made[1]]
    assert db.receipts.list_receipts(max_rows=2, before_id=made[1].id) == [made[0]]


def test_a_receipt_says_where_the_rows_are(db):
    made = create(db, archive_url="s3://a", archive_sha256=b"\1" * 32, data={"partition": "x"})
    assert (made.archive_url, made.archive_sha256) == ("s3://a", b"\1" * 32)
    assert made.data == {"partition": "x"}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"operation": "other"}, "operation"),
        ({"row_counts": [1]}, "row_counts"),
        ({"archive_url": "s3://a"}, "archive_url"),
        ({"archive_url": "", "archive_sha256": b"\1" * 32}, "archive_url"),
        ({"archive_url": "s3://a", "archive_sha256": b"\1"}, "archive_sha256"),
        ({"data": [1]}, "data"),
    ],
)
def test_what_makes_no_receipt_is_refused(db, given, field):
    with pytest.raises(InvalidValue) as caught:
        create(db, **given)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "statement",
    ["UPDATE receipts SET actor = 'eve'", "DELETE FROM receipts", "TRUNCATE receipts"],
)
def test_receipts_stay_as_they_are(conn, statement):
    conn.execute("INSERT INTO receipts (operation, row_counts) VALUES ('prune', '{}')")
    with (
        pytest.raises(ImmutableHistory, match="receipts are append-only") as caught,
        typed_errors(),
    ):
        conn.execute(statement)
    assert caught.value.sqlstate == "OI004"
