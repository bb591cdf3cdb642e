"""Every query keeps the promise of its `@plan` mark on a long history, custom and generic.

The catalogue of what is used is kept here too: an index that no plan uses goes, and so does a query
that neither the package's code nor its documentation speaks of.
"""

import re

import pytest

from .cases import FINDS_NOTHING
from .conftest import assert_kept
from .explain import ROOT, promises

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
        assert_kept(promise, seen, seen.own, seen.nested, where)


def test_every_index_named_is_there_and_so_is_every_table(history_conn):
    relations = {name for (name,) in history_conn.execute("SELECT relname FROM pg_class")}
    for name, promise in PROMISES.items():
        if promise:
            assert promise.indexes | promise.whole <= relations, name


def test_every_index_is_used_by_a_plan(observe, explainer, history_conn):
    idle = {
        name
        for (name,) in history_conn.execute(
            "SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid "
            "WHERE c.relnamespace = current_schema()::regnamespace AND NOT c.relispartition "
            "AND NOT i.indisunique AND c.relname !~ 'yoyo'"
        )
    }
    for name in PROMISES:
        for seen in observe(name):
            idle -= seen.own.indexes | seen.nested.indexes
    # Of a small table, when it will have grown.
    for index in sorted(idle):
        for name in (name for name, promise in PROMISES.items() if index in promise.indexes):
            given = observe(name)[0].arguments
            _, own, _ = explainer.call(name, "custom", given, "SET LOCAL enable_seqscan = off")
            idle -= own.indexes
    assert sorted(idle) == []


def test_the_comment_of_an_index_names_queries_that_may_use_it(history_conn):
    named = history_conn.execute(
        "SELECT c.relname, obj_description(c.oid, 'pg_class') FROM pg_class AS c "
        "WHERE c.relkind IN ('i', 'I') AND c.relnamespace = current_schema()::regnamespace "
        "AND NOT c.relispartition"
    ).fetchall()
    wrong = [
        f"{index}: {word}"
        for index, comment in named
        for word in re.findall(r"\w+", comment or "")
        for name, promise in PROMISES.items()
        if name.endswith(f".{word}") and index not in promise.indexes
    ]
    assert wrong == []


def test_every_query_is_used_by_the_code_or_told_of_in_the_documentation():
    places = [
        *(ROOT / "optiinfra_db").glob("*.py"),
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "guides").glob("*.md"),
    ]
    words = set(re.findall(r"\w+", " ".join(path.read_text() for path in places)))
    assert [name for name in PROMISES if name.partition(".")[2] not in words] == []


def test_the_page_of_questions_names_what_there_is():
    page = (ROOT / "docs" / "questions.md").read_text()
    there = {name.partition(".")[2] for name in PROMISES} | {"get_config", "set_config"}
    assert set(re.findall(r"`([a-z_]+_[a-z_]+)`", page)) - there == set()
