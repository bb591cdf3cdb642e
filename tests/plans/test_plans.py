"""Every query keeps the promise of its `@plan` mark on a long history, custom and generic.

The catalogue of what is used is kept here too: an index that no plan uses goes, and so does a query
that neither the package's code nor its documentation speaks of.
"""

import re

import pytest

from .cases import FINDS_NOTHING
from .explain import ROOT, SMALL, promises

PROMISES = promises()


def test_every_query_has_its_promise():
    assert [name for name, promise in PROMISES.items() if promise is None] == []


@pytest.mark.parametrize("name", PROMISES)
def test_the_plan_is_the_one_promised(name, observe):
    promise = PROMISES[name]
    if promise is None:
        pytest.skip("no promise")
    observed = observe(name)
    for seen in observed:
        where = f"{seen.mode} plan with {seen.arguments}:{seen.own.plan}"
        is_idle = not seen.result and seen.has_work and name not in FINDS_NOTHING
        assert not is_idle, f"nothing to do, {where}"
        assert seen.own.indexes <= promise.indexes, f"an index that is not named, {where}"
        assert seen.own.scanned <= promise.whole, f"a large table read whole, {where}"
        assert seen.nested.scanned <= promise.whole, f"by a trigger:{seen.nested.plan}"
        assert seen.own.rows <= seen.rows_bound, f"too many rows, {where}"
        assert seen.own.buffers <= seen.buffers_bound, f"too many buffers, {where}"


def test_every_index_named_is_there_and_so_is_every_table(history_conn):
    relations = {name for (name,) in history_conn.execute("SELECT relname FROM pg_class")}
    for name, promise in PROMISES.items():
        if promise:
            assert promise.indexes | promise.whole <= relations, name


def test_every_index_is_used_by_a_plan(observe, history_conn):
    used = set()
    for name in PROMISES:
        for seen in observe(name):
            used |= seen.own.indexes | seen.nested.indexes
    keeps_rows_apart = "i.indisunique"
    idle = history_conn.execute(
        f"""
        SELECT c.relname
        FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indexrelid
        JOIN pg_class AS t ON t.oid = i.indrelid
        WHERE t.relnamespace = current_schema()::regnamespace AND NOT c.relispartition
            AND NOT {keeps_rows_apart} AND t.relname != ALL (%s) AND c.relname != ALL (%s)
        ORDER BY c.relname
        """,
        [list(SMALL), list(used)],
    )
    assert [name for (name,) in idle] == []


def test_every_query_is_used_by_the_code_or_told_of_in_the_documentation():
    places = [
        *(ROOT / "optiinfra_db").glob("*.py"),
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "guides").glob("*.md"),
    ]
    words = set(re.findall(r"\w+", " ".join(path.read_text() for path in places)))
    assert [name for name in PROMISES if name.partition(".")[2] not in words] == []
