"""What each option changes, on a schema as plain as upstream's examples."""

import asyncio
import dataclasses
import enum
import inspect
import ipaddress
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pydantic
import pytest

from . import support


@pytest.fixture(scope="session")
def library_url(server: Any) -> str:
    schema = (support.NASTY.parent / "library" / "schema.sql").read_text(encoding="utf-8")
    return support.new_database(server.url("postgres"), server.url("library"), "library", schema)


@pytest.fixture(scope="session")
def library(other_folders: dict[str, Path]) -> dict[str, ModuleType]:
    folder = next(iter(other_folders.values())).parent
    sys.path.insert(0, str(folder))
    try:
        return {name: support.import_package(path) for name, path in other_folders.items()}
    finally:
        sys.path.remove(str(folder))


@pytest.fixture
def conn(library_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(library_url) as conn:
        yield conn
        conn.rollback()


BOOK: dict[str, Any] = {
    "author_id": 1,
    "isbn": "0-X",
    "price": None,
    "details": {"pages": 3},
    "links": [{"url": "a"}],
    "tags": ["x", "y"],
    "schema": "s",
}


def test_queries_work_the_way_upstream_names_them(
    library: dict[str, ModuleType], conn: psycopg.Connection[Any]
) -> None:
    lib = library["lib_package"]
    author = lib.query.create_author(conn, name="Ann", born=1970)
    assert isinstance(author, lib.models.Author)
    assert lib.query.get_author(conn, author_id=author.author_id) == author
    assert lib.query.list_authors(conn) == [author]
    kind = lib.models.BookType.NON_FICTION
    values = BOOK | {"author_id": author.author_id}
    book = lib.query.create_book(conn, book_type=kind, **values)
    assert (book.book_type, book.schema, book._hidden) == (kind, "s", 1)
    (row,) = lib.query.books_by_tags(conn, dollar_1=["y"])
    assert (row.name, row.tags, row.book_type) == ("Ann", ["x", "y"], kind)
    assert lib.query.say_hello(conn, dollar_1="you") == "hello you"
    assert lib.query.touch_books(conn).rowcount == 1
    (both,) = lib.query.books_with_authors(conn)
    assert both.author == author
    rows = [lib.query.CopyAuthorsParams(name="Bob"), lib.query.CopyAuthorsParams(name="C", born=1)]
    assert lib.query.copy_authors(conn, rows) == 2
    assert lib.query.raise_prices(conn, factor=2) == 1


def test_a_type_that_only_a_query_has_is_there(
    library: dict[str, ModuleType], conn: psycopg.Connection[Any]
) -> None:
    lib = library["lib_package"]
    address, network = ipaddress.ip_address("10.0.0.1"), ipaddress.ip_network("10.0.0.0/8")
    row = lib.query.networks(conn, dollar_1=address, dollar_2=network, dollar_3=[])
    assert (row.address, row.network, row.types) == (address, network, [])


def test_a_package_is_imported_absolutely(other_folders: dict[str, Path]) -> None:
    text = (other_folders["lib_package"] / "query.py").read_text(encoding="utf-8")
    assert "from lib_package import _runtime, models" in text
    text = (other_folders["lib_package"] / "aio" / "query.py").read_text(encoding="utf-8")
    assert "from lib_package.query import" in text


def test_queriers_can_be_left_out(library: dict[str, ModuleType]) -> None:
    assert not hasattr(library["lib_sync"], "aio")
    assert inspect.isfunction(library["lib_sync"].query.get_author)
    only_async = library["lib_async"]
    assert not hasattr(only_async.query, "get_author")
    assert only_async.query.BooksByTagsRow is only_async.aio.query.BooksByTagsRow
    assert inspect.iscoroutinefunction(only_async.aio.query.get_author)


def test_enums_are_strenums_unless_told_otherwise(library: dict[str, ModuleType]) -> None:
    assert issubclass(library["lib_exact"].models.BookType, enum.StrEnum)
    assert issubclass(library["lib_package"].models.BookType, enum.StrEnum)
    plain = library["lib_sync"].models.BookType
    assert issubclass(plain, str)
    assert not issubclass(plain, enum.StrEnum)


def test_an_enum_that_is_no_strenum_works_as_well(
    library: dict[str, ModuleType], conn: psycopg.Connection[Any]
) -> None:
    lib = library["lib_sync"]
    author = lib.query.create_author(conn, name="Ann")
    kind = lib.models.BookType.NON_FICTION
    values = BOOK | {"author_id": author.author_id}
    assert lib.query.create_book(conn, book_type=kind, **values).book_type is kind


def test_table_names_are_made_singular_or_kept(library: dict[str, ModuleType]) -> None:
    assert {"Author", "Book"} <= set(vars(library["lib_package"].models))
    assert {"Authors", "Books"} <= set(vars(library["lib_exact"].models))
    assert {"Authors", "Book"} <= set(vars(library["lib_overrides"].models))


def test_models_of_tables_that_no_query_returns_can_be_left_out(
    library: dict[str, ModuleType],
) -> None:
    assert {"Author", "AuthorName", "Book"} <= set(vars(library["lib_package"].models))
    left = set(vars(library["lib_sync"].models))
    assert {"Author", "Book", "BookType"} <= left  # the first is embedded, too
    assert "AuthorName" not in left


def test_a_parameter_limit_makes_a_class_of_parameters(library: dict[str, ModuleType]) -> None:
    query = library["lib_async"].aio.query
    assert list(inspect.signature(query.get_author).parameters) == ["conn", "author_id"]
    assert list(inspect.signature(query.create_author).parameters) == ["conn", "params"]
    params = query.CreateAuthorParams(name="x")
    assert params.born is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.name = "y"


def test_async_functions_take_a_class_of_parameters(
    library: dict[str, ModuleType], library_url: str
) -> None:
    query = library["lib_async"].aio.query

    async def run() -> Any:
        async with await psycopg.AsyncConnection.connect(library_url) as conn:
            made = await query.create_author(conn, query.CreateAuthorParams(name="Ann", born=5))
            await conn.rollback()
            return made

    assert asyncio.run(run()).born == 5


def test_pydantic_models_are_frozen_and_validated(
    library: dict[str, ModuleType], conn: psycopg.Connection[Any]
) -> None:
    lib = library["lib_pydantic"]
    query = lib.query
    author = query.create_author(conn, query.CreateAuthorParams(name="Ann", born=1970))
    assert isinstance(author, pydantic.BaseModel)
    with pytest.raises(pydantic.ValidationError):
        author.name = "Bob"
    with pytest.raises(pydantic.ValidationError):
        query.CreateAuthorParams(name=None, born=1)
    kind = lib.models.BookType.FICTION
    values = BOOK | {"author_id": author.author_id, "book_type": kind}
    values["schema_"] = values.pop("schema")
    book = query.create_book(conn, query.CreateBookParams(**values))
    assert (book.schema_, book.hidden, book.book_type) == ("s", 1, kind)
    (both,) = query.books_with_authors(conn)
    assert (both.book, both.author) == (book, author)
    conn.execute("UPDATE books SET price = 'NaN', tags = '{NULL}'")
    (both,) = query.books_with_authors(conn)
    assert both.book.price.is_nan()
    assert both.book.tags == [None]


def test_jsonb_operators_take_texts(
    library: dict[str, ModuleType], conn: psycopg.Connection[Any]
) -> None:
    for name in ("lib_package", "lib_overrides"):
        query = library[name].query
        values = {"size": 1, "sizes": [], "kind": "k"}
        extra = query.put_extra(conn, facts={"a": 1, "b": 2}, **values)
        found = query.have_keys(conn, facts="a", facts_2=["b", "z"], facts_3=["a", "b"])
        assert extra.extra_id in found


def test_overrides_convert_both_ways(
    library: dict[str, ModuleType], conn: psycopg.Connection[Any]
) -> None:
    lib = library["lib_overrides"]
    types = sys.modules["library_types"]
    author = lib.query.create_author(conn, name="Ann", born=types.Year(1970))
    assert author.born.next() == 1971
    assert lib.query.create_author(conn, name="Bob").born is None
    values = BOOK | {
        "author_id": author.author_id,
        "book_type": lib.models.BookType.FICTION,
        "price": 1.5,
        "details": types.Details(pages=7),
        "links": [types.Link("a"), types.Link("b")],
    }
    book = lib.query.create_book(conn, **values)
    assert book.details == types.Details(pages=7)
    assert book.links == [types.Link("a"), types.Link("b")]
    assert (book.price, type(book.price)) == (1.5, float)
    (both,) = lib.query.books_with_authors(conn)
    assert both.book == book
    facts = {"a": [1]}
    extra = lib.query.put_extra(conn, size=1.5, sizes=[1], kind=types.Kind("k"), facts=facts)
    assert (type(extra.kind), extra.kind, extra.facts) == (types.Kind, "k", facts)
    assert extra.numbers is None
