"""What only the text of a query tells: embedded tables, what may be NULL, COPY's columns."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from . import support
from .conftest import Api

sys.path.insert(0, str(support.PLUGIN.parent))

from sqlc_gen_psycopg import sqltext


@pytest.fixture(params=["autocommit", "transaction", "own_adapters", "prepared"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def joins(api: Api) -> Iterator[Any]:
    """Provide the queries on three accounts and two words."""
    params = api.joins.AddAccountsParams
    assert api.joins.add_accounts(params(id=n, owner=o) for n, o in enumerate("abc", 1)) == 3
    assert api.joins.add_words([api.joins.AddWordsParams(word=word) for word in "ax"]) == 2
    return api.joins


def test_a_table_embedded_twice_keeps_its_names(api: Api, joins: Any) -> None:
    account = api.models.Account
    row = joins.pairs()[0]
    assert (row.id, row.owner) == (2, "b")
    assert (row.src, row.dst) == (account(1, "a"), account(2, "b"))
    row = joins.pairs_beside_a_cte()[0]
    assert (row.src, row.dst) == (account(1, "a"), account(2, "b"))
    first, second = joins.word_pairs()
    assert (first.last, first.a.word, first.b.word) == ("a", "x", "a")
    assert (second.last, second.a.word, second.b.word) == ("x", "a", "x")


def test_an_embedded_table_is_that_of_its_schema(api: Api, joins: Any) -> None:
    joins.put_books()
    assert [row.other_book for row in joins.other_books()] == [api.models.OtherBook(2, 3, "b")]
    assert [row.book for row in joins.books()] == [api.models.Book(1, "a")]


def test_what_an_outer_join_leaves_out_is_none(api: Api, joins: Any) -> None:
    rows = joins.next_accounts()
    assert [(row.a.id, row.b and row.b.id, row.total, row.previous) for row in rows] == [
        (1, 2, 2, None),
        (2, 3, 3, 1),
        (3, None, None, 2),
    ]
    left, right = joins.right_accounts()
    assert (left.account, left.word) == (api.models.Account(1, "a"), "a")
    assert (right.account, right.word) == (None, "x")


def test_aggregates_of_no_rows_are_none(api: Api) -> None:
    row = api.joins.totals()
    assert (row.n, row.total, row.latest, row.ids, row.nobody, row.words) == (
        *(0, None, None, None),
        *(None, 0),
    )
    nullable = api.joins.TotalsRow.__annotations__
    assert nullable == {
        "n": int,
        "total": int | None,
        "latest": str | None,
        "ids": list[int] | None,
        "nobody": str | None,
        "words": int,
        "least": int,
    }
    assert api.joins.TotalsByOwnerRow.__annotations__ == {
        "owner": str,
        "latest": int,
        "first": int | None,
    }


def test_domains_over_arrays_and_deep_arrays_come_and_go(api: Api) -> None:
    values: dict[str, Any] = {
        "id": 1,
        "grid": [[1, 2], [3, 4]],
        "labels": ["x", "y,z"],
        "few": ["a"],
        "feelings": [api.models.Mood.A_B],
        "mro_": 5,
    }
    row = api.joins.add_shape(**values)
    assert {name: getattr(row, name) for name in values} == values
    assert api.joins.find_shapes(grid=values["grid"], labels=values["labels"]) == [1]
    params = api.joins.AddShapesParams
    copied = params(**values | {"id": 2}, code=2**40, a_b="p", c_d="q")
    assert api.joins.add_shapes([copied]) == 1
    assert api.joins.find_shapes(grid=values["grid"], labels=values["labels"]) == [1, 2]
    assert api.joins.longest(id=1) is None
    assert params.__annotations__["grid"] == list[list[int]]


@pytest.mark.parametrize(
    ("item", "nullable"),
    [
        ("max(a)", True),
        ("max(a) most", True),
        ("MAX(a)::int AS most", True),
        ("max(a) + 1 AS more", False),
        ("max(a)::int IS NULL AS none", False),
        ("max(a) OVER () AS most", False),
        ("percentile_cont(0.5) WITHIN GROUP (ORDER BY a) AS median", True),
        ("count(*) FILTER (WHERE a IS NULL)", False),
        ("lead(a) OVER (ORDER BY a)", True),
        ("lower(a)", False),
        ("(SELECT 1 FROM t) AS one", True),
        ("(SELECT count(*) FROM t) AS n", False),
        ("(SELECT 1 FROM t) IS NULL AS none", False),
        ("B.a::text", True),
        ('"B".a', False),
        ("c.a", True),  # FULL JOIN
        ("d.a", True),
        ("e.a", False),
        ("f.a", True),
        ("g.a", True),
    ],
)
def test_what_may_be_null_is_seen(item: str, nullable: bool) -> None:
    words = sqltext.tokens(
        f"SELECT DISTINCT x IS DISTINCT FROM 'a, (b' AS x, {item} /* FROM z */ FROM only a -- ,\n"
        " LEFT JOIN s.x B ON (a.id = b.id) INNER JOIN s.c ON true FULL JOIN d USING (a),"
        " e LEFT JOIN LATERAL (SELECT 1 AS a FROM c LEFT JOIN e ON true) AS f ON true"
        " LEFT OUTER JOIN unnest(array[1, 2]) g (a) ON true WHERE e.a > 1 ORDER BY a"
    )
    first, second = sqltext.select_list(words)
    assert first[0] == "x"
    outer = sqltext.outer_joined(words)
    assert sqltext.may_be_null(second, outer, grouped=sqltext.is_grouped(words)) == nullable


@pytest.mark.parametrize(
    ("text", "copied"),
    [
        (
            'INSERT INTO S."T" x ("a,b", c) VALUES ($2, $1);',
            ('S."T"', ('"a,b"', "c"), ("$2", "$1")),
        ),
        ("insert into t values ($1::numeric(3, 1), $2)", ("t", (), ("$1", "$2"))),
        ("INSERT INTO t (a) VALUES ($1 + 1)", None),
        ("INSERT INTO t (a) VALUES ($1), ($2)", None),
        ("INSERT INTO t (a, b) VALUES ($1)", None),
        ("INSERT INTO t (a) SELECT $1", None),
        ("INSERT INTO t DEFAULT VALUES", None),
    ],
)
def test_an_insert_is_read(text: str, copied: object) -> None:
    found = sqltext.insert(sqltext.tokens(text))
    assert (found and (found.written, found.columns, found.values)) == copied
