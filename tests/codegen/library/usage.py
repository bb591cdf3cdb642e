"""How a user calls the generated code; only type checked."""

import decimal
from typing import Any, assert_type

import psycopg
from lib_overrides import models, query
from lib_overrides.aio import query as aquery
from lib_pydantic import query as pydantic_query
from library_types import Details, Kind, Link, Year
from nasty_generated import measurements, people
from nasty_generated import models as nasty_models
from nasty_generated.aio import people as apeople


def sync(conn: psycopg.Connection[Any]) -> None:
    """Call sync functions."""
    assert_type(people.get_person(conn, id=1), nasty_models.Person | None)
    person = people.create_person(conn, name="x", mood=nasty_models.Mood.OK)
    assert_type(person, nasty_models.Person)
    assert_type(people.count_people(conn), int)
    assert_type(people.list_names(conn), list[str])
    assert_type(people.list_with_boss(conn)[0].b, nasty_models.Person | None)
    found = people.find_many(conn, [people.FindManyParams(id=1)])
    assert_type(found, list[nasty_models.Person | None])
    body: dict[str, object] = {"a": [1]}
    document = measurements.put_document(conn, id=1, body=body, kind="k")
    document = measurements.put_document(conn, id=1, body=document.body["a"][0], kind="k")
    assert_type(measurements.newest(conn).total, decimal.Decimal)
    book = query.create_book(
        conn,
        author_id=1,
        isbn="1",
        book_type=models.BookType.FICTION,
        price=1.5,
        details=Details(pages=1),
        links=[Link("x")],
        tags=["a"],
    )
    assert book
    assert_type(book.details, Details)
    assert_type(book.links, list[Link])
    assert_type(book.price, float | None)
    extra = query.put_extra(conn, size=1.0, sizes=[], kind=Kind("x"), facts={"a": object()})
    assert_type(extra.kind, Kind)
    assert_type(extra.facts, dict[str, Any])
    assert_type(extra.numbers, list[int] | None)
    assert_type(query.have_keys(conn, facts="a", facts_2=["b"], facts_3=["c"]), list[int])
    author = query.get_author(conn, author_id=1)
    assert author
    assert_type(author.born, Year | None)
    params = pydantic_query.GetAuthorParams(author_id=1)
    assert pydantic_query.get_author(conn, params)


async def asynchronous(conn: psycopg.AsyncConnection[Any]) -> None:
    """Call async functions."""
    assert_type(await apeople.get_person(conn, id=1), nasty_models.Person | None)
    row: apeople.ListWithBossRow = (await apeople.list_with_boss(conn))[0]
    assert_type(row, people.ListWithBossRow)
    assert_type(await aquery.raise_prices(conn, factor=1.5), int)
