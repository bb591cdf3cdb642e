"""PostgreSQL types as Python types: annotations, and how values are read, written and copied.

sqlc spells one type in several ways (`int4`, `integer`, `pg_catalog.int4`, `serial`); `canonical`
settles on PostgreSQL's internal name.
"""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .config import Override
from .naming import class_name, identifier
from .request import Column, Enum, Identifier, Request
from .sqltext import folded, unquoted, without_comments

_ALIASES = {
    "smallint": "int2",
    "smallserial": "int2",
    "serial2": "int2",
    "int": "int4",
    "integer": "int4",
    "serial": "int4",
    "serial4": "int4",
    "bigint": "int8",
    "bigserial": "int8",
    "serial8": "int8",
    "real": "float4",
    "float": "float8",
    "double precision": "float8",
    "decimal": "numeric",
    "dec": "numeric",
    "boolean": "bool",
    "string": "text",
    "character varying": "varchar",
    "character": "bpchar",
    "bit varying": "varbit",
    "blob": "bytea",
    "time without time zone": "time",
    "time with time zone": "timetz",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
}
_PYTHON = {
    "int": "int2 int4 int8 oid xid xid8 cid",
    "float": "float4 float8",
    "decimal.Decimal": "numeric",
    "bool": "bool",
    "str": (
        "text varchar bpchar char name citext xml money bit varbit macaddr macaddr8 "
        "ltree lquery ltxtquery hstore vector tsvector tsquery jsonpath "
        "point line lseg box path polygon circle pg_lsn pg_snapshot txid_snapshot tid refcursor "
        "regclass regtype regproc regprocedure regoper regoperator regrole regnamespace "
        "regconfig regdictionary regcollation void unknown cstring"
    ),
    "uuid.UUID": "uuid",
    "datetime.date": "date",
    "datetime.time": "time timetz",
    "datetime.datetime": "timestamp timestamptz",
    "datetime.timedelta": "interval",
    "bytes": "bytea",
    "models.JSON": "json jsonb",
    "models.INET": "inet",
    "models.CIDR": "cidr",
    "Range[int]": "int4range int8range",
    "Range[decimal.Decimal]": "numrange",
    "Range[datetime.date]": "daterange",
    "Range[datetime.datetime]": "tsrange tstzrange",
    "Multirange[int]": "int4multirange int8multirange",
    "Multirange[decimal.Decimal]": "nummultirange",
    "Multirange[datetime.date]": "datemultirange",
    "Multirange[datetime.datetime]": "tsmultirange tstzmultirange",
    # What sqlc could not settle.
    "typing.Any": (
        "any anyelement anyarray anynonarray anyenum anyrange anymultirange anycompatible "
        "anycompatiblearray anycompatiblenonarray anycompatiblerange record"
    ),
}
_ANNOTATIONS = {name: python for python, names in _PYTHON.items() for name in names.split()}
_BINARY_SCALARS = (
    "int2 int4 int8 oid float4 float8 numeric bool text varchar name uuid date time timetz "
    "timestamp timestamptz interval bytea json jsonb"
)
_BINARY_COPY = frozenset(_BINARY_SCALARS.split()) | frozenset(
    name for name, python in _ANNOTATIONS.items() if "ange[" in python
)
# Types whose arrays psycopg does not know.
_FOREIGN = frozenset(("citext", "ltree", "lquery", "ltxtquery", "hstore", "vector", "pg_snapshot"))
_BUILTIN_ANNOTATIONS = ("int", "float", "bool", "str", "bytes")
_CLASS = re.compile(r"(?!typing\.)[\w.]+")
_IDENT = r'(?:"(?:[^"]|"")+"|[\w$]+)'
_NAME = re.compile(rf"(?:(?P<schema>{_IDENT})\.)?(?P<name>{_IDENT})")
_DOMAIN = re.compile(
    rf"""\bCREATE\s+DOMAIN\s+(?:(?P<schema>{_IDENT})\s*\.\s*)?(?P<name>{_IDENT})\s+(?:AS\s+)?
        (?P<base>(?:{_IDENT}\.)?{_IDENT}
            (?:\s+(?:precision|varying|with(?:out)?\s+time\s+zone))?)
        (?:\s*\([\d\s,]*\))?(?P<array>\s+ARRAY\b)?(?P<brackets>(?:\s*\[\d*\])*)""",
    re.IGNORECASE | re.VERBOSE,
)


class UnknownTypeError(Exception):
    """A PostgreSQL type that has no Python type."""

    def __init__(self, name: str, missing: Sequence[str]) -> None:
        super().__init__(name)
        self.missing = missing  # schema paths that might have told


@dataclass(frozen=True, slots=True)
class PyType:
    """A column's or parameter's type, in Python and on the wire."""

    annotation: str  # of one element, without list[] and None
    dims: int = 0
    nullable: bool = False
    base: str = ""  # the canonical name; empty for what psycopg does not know
    is_enum: bool = False
    is_domain: bool = False
    is_split: bool = False  # an array that psycopg loads as text
    reader: str = ""  # name of the constant that converts what psycopg loads
    reader_made: tuple[str, str] = ("", "")  # by what function of what that constant is made
    imports: tuple[str, ...] = ()

    @property
    def full(self) -> str:
        """The whole annotation."""
        text = "list[" * self.dims + self.annotation + "]" * self.dims
        return f"{text} | None" if self.nullable and text != "typing.Any" else text

    @property
    def is_binary(self) -> bool:
        """Whether psycopg can load it in binary format, inside a record too."""
        if self.is_enum:
            return not self.dims  # a label's binary form is its text
        return self.base in _BINARY_COPY and not self.is_domain

    @property
    def is_same_in_binary(self) -> bool:
        """Whether psycopg makes the same of its binary format as of its text."""
        # The text of a float4 is short, as people write it; its binary form has all the digits.
        return self.is_binary and not self.is_split and self.base != "float4"

    @property
    def copy_type(self) -> str:
        """The type name to write it as in binary COPY; empty where only text COPY will do."""
        if (self.is_enum or self.base == "bpchar") and not self.dims:
            return "text"  # the binary form is the text
        if self.is_enum:
            return ""
        if self.base not in _BINARY_COPY or self.is_split:
            return ""
        return self.base + "[]" * bool(self.dims)


class TypeMap:
    """The types of one request."""

    def __init__(self, request: Request, overrides: Sequence[Override]) -> None:
        self._default = request.default_schema
        self._enums = {(e.id.schema, unquoted(e.id.name)): e for e in request.enums}
        self._composites = {unquoted(name.name) for name in request.composites}
        files, self._missing = _schema_files(request.schema_paths)
        self._domains = _domains(files, self._default)
        self._declared_dims = {
            (t.id.schema, t.id.name, c.name): c.dims for t in request.tables for c in t.columns
        }
        self._used: set[str] = set()
        self._by_type = {canonical(Identifier("", o.db_type)): o for o in overrides if o.db_type}
        self._by_column = {o.column.replace('"', ""): o for o in overrides if o.column}

    def knows(self, name: str) -> bool:
        """Tell whether there is a PostgreSQL type of this name, as far as is known."""
        wanted = Identifier("", name)
        known = (*_ANNOTATIONS, *_FOREIGN, *self._composites, *self._used)
        return bool(self._enum(wanted) or self._domain(wanted)) or canonical(wanted) in known

    def of(self, column: Column) -> PyType:
        """Find a column's Python type; raise UnknownTypeError where there is none."""
        self._used.add(canonical(column.type))
        type_name, dims = column.type, self._dims_of(column)
        if type_name.name.endswith("[]"):
            bare = type_name.name.rstrip("[]")
            dims = dims or (len(type_name.name) - len(bare)) // 2
            type_name = replace(type_name, name=bare)
        nullable = not column.not_null
        found = self._scalar(type_name, dims)
        override = self._override(column, type_name)
        if override:
            found = _overridden(found, override)
        found = found and _array_of(found, dims)
        if found is None:
            raise UnknownTypeError(str(type_name), self._missing)
        return replace(found, nullable=nullable)

    def key(self, column: Column) -> tuple[str, int]:
        """Tell what makes two columns the same type, however sqlc spells it."""
        enum = self._enum(column.type)
        return (str(enum.id) if enum else canonical(column.type), self._dims_of(column))

    def _dims_of(self, column: Column) -> int:
        """Tell an array's depth: where sqlc asked the database, only the catalogue has it."""
        if not column.table or not column.dims:
            return column.dims
        schema, name = column.table.schema or self._default, column.table.name
        return self._declared_dims.get((schema, name, column.original_name)) or column.dims

    def _scalar(self, name: Identifier, dims: int) -> PyType | None:
        enum = self._enum(name)
        if enum:
            cls = f"models.{enum_class(enum, self._default)}"
            reader = f"_{identifier(enum.id.name, 'enum').upper()}_LABELS"
            return PyType(cls, is_enum=True, reader=reader, reader_made=("_runtime.labels", cls))
        base = canonical(name)
        if base in _FOREIGN or base in self._composites:  # psycopg gives a text, such as "(1,a)"
            return PyType("str", is_domain=True)
        if base in _ANNOTATIONS:
            return PyType(_ANNOTATIONS[base], base=base)
        if base.startswith("_") and base[1:] in _ANNOTATIONS and not dims:
            return PyType(_ANNOTATIONS[base[1:]], base=base[1:], dims=1)
        domain = self._domain(name)
        if domain:
            under = self._scalar(domain[0], domain[1])
            under = under and _array_of(under, domain[1])
            return under and replace(under, is_domain=True)
        return None

    def _domain(self, name: Identifier) -> tuple[Identifier, int] | None:
        wanted = _split(name)
        found = self._domains.get((wanted.schema or self._default, wanted.name))
        if found or wanted.schema:
            return found
        others = [domain for (_, label), domain in self._domains.items() if label == wanted.name]
        return others[0] if len(others) == 1 else None

    def _enum(self, name: Identifier) -> Enum | None:
        wanted = _split(name)
        found = self._enums.get((wanted.schema or self._default, wanted.name))
        if found or wanted.schema:
            return found
        others = [enum for (_, label), enum in self._enums.items() if label == wanted.name]
        return others[0] if len(others) == 1 else None

    def _override(self, column: Column, type_name: Identifier) -> Override | None:
        found = None
        if column.table:
            schema = column.table.schema
            name = column.original_name or column.name
            keys = [f"{column.table.name}.{name}"] if schema in ("", self._default) else []
            keys.append(f"{schema or self._default}.{column.table.name}.{name}")
            found = next((self._by_column[key] for key in keys if key in self._by_column), None)
        return found or self._by_type.get(canonical(type_name))


def canonical(name: Identifier) -> str:
    """PostgreSQL's internal name of a type that sqlc spells in one of several ways."""
    bare = re.sub(r"\s*\(.*?\)", "", _split(name).name)
    return _ALIASES.get(bare.lower(), bare)


def enum_class(enum: Enum, default_schema: str) -> str:
    """Name an enum's class, the schema first if it is not the default one."""
    schema = "" if enum.id.schema == default_schema else enum.id.schema + "_"
    return class_name(schema + unquoted(enum.id.name))


def _overridden(found: PyType | None, override: Override) -> PyType:
    imports = (override.py_import,) if override.py_import else ()
    annotation = override.py_type
    if found is None:
        found = PyType("str", is_domain=True)
    if found.annotation == annotation:
        return found
    made = ("", "")
    if found.base in ("json", "jsonb"):
        if not annotation.startswith(("dict[", "list[")):  # which is what JSON gives
            made = ("_runtime.json_reader", annotation)
    elif annotation in _BUILTIN_ANNOTATIONS or (imports and _CLASS.fullmatch(annotation)):
        made = ("_runtime.reader", annotation)
    name = annotation.removeprefix(f"{override.py_import}.")
    return replace(
        found,
        annotation=annotation,
        reader=f"_READ_{identifier(name, 'value').strip('_').upper()}" if made[0] else "",
        reader_made=made,
        imports=imports,
        is_enum=False,
        is_domain=found.is_domain or found.is_enum,
    )


def _split(name: Identifier) -> Identifier:
    """Undo the quoting and qualifying that sqlc leaves in some names."""
    found = _NAME.fullmatch(name.name)
    if not found:
        return name
    schema, bare = found["schema"] or "", found["name"]
    return Identifier(name.schema or unquoted(schema), unquoted(bare))


def _array_of(element: PyType, dims: int) -> PyType | None:
    """Make a type an array; None for an array of a domain that is an array itself."""
    if not dims:
        return element
    if element.dims and element.is_domain:
        return None
    split = element.is_domain or element.is_enum
    return replace(element, dims=element.dims + dims, is_split=split)


def _domains(
    files: Sequence[Path], default_schema: str
) -> dict[tuple[str, str], tuple[Identifier, int]]:
    """Read from the schema what sqlc does not send: the types under the domains."""
    domains: dict[tuple[str, str], tuple[Identifier, int]] = {}
    for path in files:
        text = without_comments(path.read_text(encoding="utf-8", errors="replace"))
        for match in _DOMAIN.finditer(text):
            schema, name = (folded(match[part] or "") for part in ("schema", "name"))
            base = _split(Identifier("", " ".join(match["base"].split())))
            depth = match["brackets"].count("[") or bool(match["array"])
            domains[schema or default_schema, name] = (base, depth)
    return domains


def _schema_files(paths: Sequence[str]) -> tuple[list[Path], tuple[str, ...]]:
    """Find the schema's files as sqlc does; second, the paths at which there is nothing."""
    files: list[Path] = []
    missing = []
    for given in paths:
        found = sorted(Path(name) for name in glob.glob(given))  # noqa: PTH207 (may be absolute)
        if not found:
            missing.append(given)
        for path in found:
            files += sorted(path.glob("*.sql")) if path.is_dir() else [path]
    return files, tuple(missing)
