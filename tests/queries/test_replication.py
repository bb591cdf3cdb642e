"""The queries on a server that is no replica; tests/replication has those on one that is."""

import pytest

from optiinfra_db.errors import InvalidValue


def test_the_place_in_the_log_grows_with_what_is_written(db):
    places = []
    for _ in range(2):
        timeline, lsn = db.replication.get_wal_position().split(":")
        places.append(db.execute("SELECT %s::integer, %s::pg_lsn - '0/0'", [timeline, lsn]))
        db.make_customer()
    (before,), (after,) = places
    assert before[0] == after[0] >= 1
    assert before[1] < after[1]


def test_a_primary_is_no_replica(db):
    place = db.replication.get_wal_position()
    for wal_position in (None, place):
        progress = db.replication.get_replay_progress(wal_position=wal_position)
        assert not progress.is_replica


@pytest.mark.parametrize("text", ["", "0/0", "1:", "x:0/0", "99999999999:0/0", "1:0/0/0"])
def test_a_place_that_is_none_is_refused(db, text):
    with db.refused(InvalidValue):
        db.replication.get_replay_progress(wal_position=text)
