"""The part of sqlc's code generation request that the generator uses, typed.

sqlc sends protobuf as JSON: a field at its zero value may be absent.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from .problems import InvalidRequestError

SYSTEM_SCHEMAS = ("pg_catalog", "information_schema", "pg_temp", "pg_toast")


@dataclass(frozen=True, slots=True)
class Identifier:
    """A possibly schema-qualified name."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table or result, or what a parameter stands for."""

    name: str
    type: Identifier
    not_null: bool
    dims: int
    comment: str
    table: Identifier | None
    original_name: str
    embed: Identifier | None
    is_slice: bool


@dataclass(frozen=True, slots=True)
class Parameter:
    """The parameter `$number`."""

    number: int
    column: Column


@dataclass(frozen=True, slots=True)
class Query:
    """An annotated query."""

    name: str
    command: str
    text: str
    filename: str
    comments: tuple[str, ...]
    columns: tuple[Column, ...]
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum type."""

    id: Identifier
    labels: tuple[str, ...]
    comment: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view."""

    id: Identifier
    columns: tuple[Column, ...]
    comment: str


@dataclass(frozen=True, slots=True)
class Request:
    """All that one run works from."""

    engine: str
    default_schema: str
    schema_paths: tuple[str, ...]
    enums: tuple[Enum, ...]
    composites: tuple[Identifier, ...]
    tables: tuple[Table, ...]
    queries: tuple[Query, ...]
    options: dict[str, Any]


def parse_request(data: bytes) -> Request:
    """Read a request as sqlc writes it (`format: json`)."""
    try:
        raw = json.loads(data)
    except ValueError as error:
        msg = f"stdin is not a JSON request; set 'format: json' for this plugin ({error})"
        raise InvalidRequestError(msg) from error
    if not isinstance(raw, dict) or "catalog" not in raw:
        msg = "stdin holds no sqlc code generation request; this program is run by sqlc"
        raise InvalidRequestError(msg)
    catalog = raw.get("catalog") or {}
    default = catalog.get("default_schema") or "public"
    schemas = [s for s in catalog.get("schemas") or () if s.get("name") not in SYSTEM_SCHEMAS]
    settings = raw.get("settings") or {}
    return Request(
        engine=settings.get("engine") or "",
        default_schema=default,
        schema_paths=tuple(settings.get("schema") or ()),
        enums=tuple(
            Enum(
                Identifier(s.get("name", ""), e.get("name", "")),
                tuple(e.get("vals") or ()),
                e.get("comment") or "",
            )
            for s in schemas
            for e in s.get("enums") or ()
        ),
        composites=tuple(
            Identifier(s.get("name", ""), c.get("name", ""))
            for s in schemas
            for c in s.get("composite_types") or ()
        ),
        tables=tuple(
            Table(
                Identifier(s.get("name", ""), (t.get("rel") or {}).get("name", "")),
                tuple(_column(c) for c in t.get("columns") or ()),
                t.get("comment") or "",
            )
            for s in schemas
            for t in s.get("tables") or ()
        ),
        queries=tuple(_query(q) for q in raw.get("queries") or () if q.get("name")),
        options=_options(raw.get("plugin_options")),
    )


def _options(encoded: object) -> dict[str, Any]:
    if not encoded:
        return {}
    try:
        options = json.loads(base64.b64decode(str(encoded)))
    except (binascii.Error, ValueError) as error:
        msg = f"the plugin's options cannot be read ({error})"
        raise InvalidRequestError(msg) from error
    if options is None:
        return {}
    if not isinstance(options, dict):
        msg = "the plugin's options are not a mapping"
        raise InvalidRequestError(msg)
    return options


def _query(raw: dict[str, Any]) -> Query:
    parameters = {
        int(p.get("number") or 0): Parameter(int(p.get("number") or 0), _column(p["column"] or {}))
        for p in raw.get("params") or ()
    }
    return Query(
        name=raw["name"],
        command=raw.get("cmd") or "",
        text=raw.get("text") or "",
        filename=raw.get("filename") or "",
        comments=tuple(raw.get("comments") or ()),
        columns=tuple(_column(c) for c in raw.get("columns") or ()),
        parameters=tuple(parameters[number] for number in sorted(parameters)),
    )


def _column(raw: dict[str, Any]) -> Column:
    dims = int(raw.get("array_dims") or 0)
    return Column(
        name=raw.get("name") or "",
        type=_identifier(raw.get("type")) or Identifier("", ""),
        not_null=bool(raw.get("not_null")),
        dims=max(dims, 1) if raw.get("is_array") else 0,
        comment=raw.get("comment") or "",
        table=_identifier(raw.get("table")),
        original_name=raw.get("original_name") or "",
        embed=_identifier(raw.get("embed_table")),
        is_slice=bool(raw.get("is_sqlc_slice")),
    )


def _identifier(raw: dict[str, Any] | None) -> Identifier | None:
    if not raw or not raw.get("name"):
        return None
    return Identifier(raw.get("schema") or "", raw["name"])
