"""A cluster is upgraded by pg_upgrade as the guide says, and is then like one made anew."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from optiinfra_db import audit, connect, embedded
from optiinfra_db.feed import START, Cursor, Feed
from optiinfra_db.generated import events
from optiinfra_db.seed import ATLAS

from ..conftest import EMBEDDED_VERSION
from ..schema.catalogue import catalogue
from .servers import no_server_yet, run_as_owner, seeded_server, start

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "upgrading.md"
IN_PLACE, AFTER_IT, _ = re.findall(r"^```console\n(.*?)^```", GUIDE.read_text(), re.S | re.M)
OLD_BIN = Path("/usr/lib/postgresql/15/bin")
NEWER = b"pg_attver"
MARKED = """
    SELECT count(*) FROM pg_proc WHERE proleakproof AND pronamespace = 'pg_catalog'::regnamespace
    AND proname IN ('enum_eq', 'numeric_eq', 'numeric_lt', 'numeric_cmp')
"""


@pytest.mark.skipif(not OLD_BIN.exists(), reason="there is no PostgreSQL 15 (postgresql-15)")
def test_a_cluster_is_upgraded_as_the_guide_says(pg, database_url):
    if pg != EMBEDDED_VERSION:
        pytest.skip(f"is upgraded to PostgreSQL {EMBEDDED_VERSION}: run with --pg that")
    # An option of columns that minor releases such as 15.20 came with.
    knows = [
        NEWER in (bin_dir / "postgres").read_bytes()
        for bin_dir in (OLD_BIN, embedded.find_bin_dir())
    ]
    if knows == [True, False]:
        pytest.skip("PostgreSQL 15 is here in a minor release newer than that of the embedded one")
    with seeded_server("15") as old, no_server_yet(embedded.find_bin_dir(), owner=old) as new:
        with connect(old.url()) as conn:
            audit.seal(conn)
            before = list(Feed(old.url(), after=START))
            cursor = Cursor.of(before[-1])
            assert conn.execute(MARKED).fetchone() == (4,)
        old.stop()
        paths = {"OLD_BIN": old.bin_dir, "OLD_DATA": old.pgdata}
        paths |= {"NEW_BIN": new.bin_dir, "NEW_DATA": new.pgdata}
        run_as_owner(new, "bash", "-euc", IN_PLACE, **paths)
        start(new)

        with connect(new.url()) as conn:
            assert conn.execute(MARKED).fetchone() == (0,)
        programs = [str(Path(sys.executable).parent), str(new.bin_dir), os.environ["PATH"]]
        variables = {"NEW_URL": new.url(), "PATH": os.pathsep.join(programs)}
        subprocess.run(["bash", "-euc", AFTER_IT], env=os.environ | variables, check=True)

        with connect(new.url()) as conn, connect(database_url) as fresh:
            assert conn.execute(MARKED).fetchone() == (4,)
            found, expected = normalised(catalogue(conn)), normalised(catalogue(fresh))
            for kind in expected:
                assert set(found[kind]) ^ set(expected[kind]) == set(), kind
                assert found[kind] == expected[kind], kind
            made = events.create_event(conn, customer_id=ATLAS, event_type="x")
            assert [event.id for event in Feed(new.url(), after=cursor)] == [made.id]
            assert list(Feed(new.url(), after=START))[:-1] == before
            assert audit.verify(conn) == []
            assert audit.seal(conn) == audit.Sealed(1, 1)
            assert audit.verify(conn) == []


def normalised(found):
    """Leave out what differs by right: whose uuidv7() it is, names of NOT NULL, and parentheses.

    PostgreSQL 18 is the first that has the one and gives the others names, those of partitions too.
    What BETWEEN became is read again with other parentheses.
    """
    is_ours = re.compile(r"^\('uuidv7', |^\('function', 'public\.uuidv7")
    return {
        kind: sorted(
            re.sub(r"'\w+_not_null'|[()]|public\.(?=uuidv7)", "", text)
            for text in map(repr, rows)
            if not is_ours.search(text)
        )
        for kind, rows in found.items()
    }
