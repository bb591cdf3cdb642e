"""The tables and views of a live database as pages, and their keys as a diagram."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg.rows import namedtuple_row

from pages import Links, code, fence, page, prose, section, table

FOLDER = Path("tables")
DIAGRAM = Path("er-diagram.md")

_RELATIONS: LiteralString = """
SELECT
    oid,
    relname AS name,
    relkind = 'v' AS is_view,
    coalesce(obj_description(oid, 'pg_class'), '') AS comment,
    pg_get_partkeydef(oid) AS partition_key
FROM pg_class
WHERE
    relkind IN ('r', 'p', 'v')
    AND NOT relispartition
    AND relnamespace = current_schema()::regnamespace
ORDER BY relname
"""
_COLUMNS: LiteralString = """
SELECT
    attname AS name,
    replace(format_type(atttypid, atttypmod), 'timestamp with time zone', 'timestamptz') AS type,
    attnotnull AS is_not_null,
    pg_get_expr(adbin, adrelid) AS default_,
    coalesce(col_description(attrelid, attnum), '') AS comment
FROM pg_attribute
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE
    attrelid = %s
    AND attnum > 0
    AND NOT attisdropped
ORDER BY attnum
"""
# NOT NULL, a constraint since PostgreSQL 18, stands with its column.
_CONSTRAINTS: LiteralString = """
SELECT
    conname AS name,
    pg_get_constraintdef(oid, true) AS definition
FROM pg_constraint
WHERE
    conrelid = %s
    AND contype IN ('p', 'u', 'f', 'c')
ORDER BY position(contype::text IN 'pufc'), conname
"""
_INDEXES: LiteralString = """
SELECT
    relname AS name,
    indisunique AS is_unique,
    pg_get_indexdef(indexrelid) AS definition,
    coalesce(obj_description(indexrelid, 'pg_class'), '') AS comment
FROM pg_index
INNER JOIN pg_class ON indexrelid = pg_class.oid
WHERE indrelid = %s
ORDER BY indisprimary DESC, relname
"""
_TRIGGERS: LiteralString = """
SELECT
    tgname AS name,
    pg_get_triggerdef(oid, true) AS definition,
    coalesce(obj_description(oid, 'pg_trigger'), '') AS comment
FROM pg_trigger
WHERE
    tgrelid = %s
    AND NOT tgisinternal
ORDER BY tgname
"""
_ENUMS: LiteralString = """
SELECT
    typname AS name,
    coalesce(obj_description(pg_type.oid, 'pg_type'), '') AS comment,
    array(
        SELECT enumlabel::text
        FROM pg_enum
        WHERE enumtypid = pg_type.oid
        ORDER BY enumsortorder
    ) AS labels
FROM pg_type
WHERE
    typtype = 'e'
    AND pg_type.oid IN (SELECT atttypid FROM pg_attribute WHERE attrelid = %s)
ORDER BY typname
"""
# A unique index on columns of the key makes the many that point at a row at most one.
_FOREIGN_KEYS: LiteralString = """
SELECT
    tbl.relname AS table_name,
    target.relname AS target_name,
    key.columns,
    key.is_optional,
    EXISTS (
        SELECT
        FROM pg_index
        WHERE
            indrelid = conrelid
            AND indisunique
            AND conkey @> (indkey::smallint[])[:indnkeyatts]
            AND (
                indpred IS NULL
                OR pg_get_expr(indpred, indrelid)
                = ANY (SELECT format('(%I IS NOT NULL)', name) FROM unnest(key.columns) AS name)
            )
    ) AS is_unique,
    CASE confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' ELSE 'NO ACTION' END
        AS on_delete
FROM pg_constraint
INNER JOIN pg_class AS tbl ON conrelid = tbl.oid
INNER JOIN pg_class AS target ON confrelid = target.oid
CROSS JOIN LATERAL (
    SELECT
        array_agg(attname::text ORDER BY place) AS columns,
        bool_or(NOT attnotnull) AS is_optional
    FROM unnest(conkey) WITH ORDINALITY AS k (attnum, place)
    INNER JOIN pg_attribute USING (attnum)
    WHERE attrelid = conrelid
) AS key
WHERE
    contype = 'f'
    AND conparentid = 0
    AND tbl.relnamespace = current_schema()::regnamespace
ORDER BY target.relname, tbl.relname, conname
"""


class ForeignKey(NamedTuple):
    """What points from one table at another."""

    table: str
    target: str
    columns: list[str]
    is_optional: bool
    is_unique: bool
    on_delete: str


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or view, with what the catalogue has about it and the file that declares it."""

    name: str
    is_view: bool
    comment: str
    partition_key: str | None
    columns: Sequence[Any]
    constraints: Sequence[Any]
    indexes: Sequence[Any]
    triggers: Sequence[Any]
    enums: Sequence[Any]
    source: Path


def relations(conn: psycopg.Connection[Any], schema: Path) -> list[Relation]:
    """Read the tables and views of the current schema, but for partitions."""
    sources = {
        name: path
        for path in sorted(schema.glob("*.sql"))
        for name in re.findall(r"^CREATE (?:TABLE|VIEW) (\w+)", path.read_text(), re.MULTILINE)
    }
    return [
        Relation(
            found.name,
            found.is_view,
            found.comment,
            found.partition_key,
            _rows(conn, _COLUMNS, found.oid),
            _rows(conn, _CONSTRAINTS, found.oid),
            _rows(conn, _INDEXES, found.oid),
            _rows(conn, _TRIGGERS, found.oid),
            _rows(conn, _ENUMS, found.oid),
            sources[found.name],
        )
        for found in _rows(conn, _RELATIONS)
    ]


def _rows(conn: psycopg.Connection[Any], query: LiteralString, *parameters: object) -> list[Any]:
    with conn.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(query, parameters).fetchall()


def foreign_keys(conn: psycopg.Connection[Any]) -> list[ForeignKey]:
    """Read the foreign keys of the current schema."""
    return [ForeignKey(*row) for row in conn.execute(_FOREIGN_KEYS)]


def links(relations: list[Relation]) -> Links:
    """Say where the names of tables and views lead."""
    return {
        relation.name: f"{FOLDER}/views.md#{relation.name}"
        if relation.is_view
        else f"{FOLDER}/{relation.name}.md"
        for relation in relations
    }


def pages(
    relations: list[Relation],
    keys: list[ForeignKey],
    machines: Mapping[str, str],
    uses: Mapping[str, Sequence[str]],
    links: Links,
) -> dict[Path, str]:
    """Write the pages, a table each, one of the views, an index and the diagram.

    `uses` has the queries that may use an index.
    """
    tables = [relation for relation in relations if not relation.is_view]
    views = [relation for relation in relations if relation.is_view]
    return {
        DIAGRAM: _diagram(tables, keys),
        FOLDER / "index.md": _index(tables, links),
        FOLDER / "views.md": _views(views, links),
        **{FOLDER / f"{one.name}.md": _page(one, keys, machines, uses, links) for one in tables},
    }


def _index(tables: list[Relation], links: Links) -> str:
    rows = [[f"[`{one.name}`]({one.name}.md)", prose(one.comment, links)] for one in tables]
    intro = (
        "A page a table: what it is for, who writes it, how it grows, and all that is declared. "
        "The [views](views.md) are for people in psql. [What points at what](../er-diagram.md) is "
        "a diagram, and so are the [state machines](../state-machines.md)."
    )
    return page("Tables", intro, table(["table", "what it holds"], rows), sources="schema/")


def _page(
    one: Relation,
    keys: list[ForeignKey],
    machines: Mapping[str, str],
    uses: Mapping[str, Sequence[str]],
    links: Links,
) -> str:
    pointing = [
        f"- [`{key.table}`]({key.table}.md) by {_names(key.columns)}, `ON DELETE {key.on_delete}`"
        for key in keys
        if key.target == one.name
    ]
    return page(
        one.name,
        f"> {prose(one.comment, links)}",
        prose(_essay(one.source), links),
        f"Partitioned by {code(one.partition_key)}." if one.partition_key else "",
        f"Its queries: [{one.name}](../queries/{one.name}.md).",
        section("Columns", _columns(one, links)),
        section("Status", machines.get(one.name, "")),
        section("Keys and constraints", _constraints(one)),
        section("What points here", "\n".join(pointing)),
        section("Indexes", _indexes(one, uses, links)),
        section("Triggers", _triggers(one, links)),
        section("Types", _types(one, links)),
        sources=f"the catalogue and schema/{one.source.name}",
    )


def _essay(source: Path) -> str:
    """Return the comment that a file opens with."""
    head = re.match(r"(?:--.*\n)*", source.read_text())
    return re.sub(r"^-- ?", "", head[0] if head else "", flags=re.MULTILINE)


def _columns(one: Relation, links: Links) -> str:
    enums = {enum.name for enum in one.enums}
    rows = [
        [
            code(column.name),
            f"[`{column.type}`](#{column.type})" if column.type in enums else code(column.type),
            "" if column.is_not_null else "NULL",
            code(column.default_) if column.default_ else "",
            prose(column.comment, links),
        ]
        for column in one.columns
    ]
    return table(["column", "type", "may be", "default", ""], rows)


def _constraints(one: Relation) -> str:
    rows = [[code(constraint.name), code(constraint.definition)] for constraint in one.constraints]
    return table(["constraint", "definition"], rows)


def _indexes(one: Relation, uses: Mapping[str, Sequence[str]], links: Links) -> str:
    rows = [
        [
            code(index.name),
            code(("UNIQUE " if index.is_unique else "") + _index_on(index.definition)),
            prose(index.comment, links),
            prose(", ".join(uses.get(index.name, [])), links),
        ]
        for index in one.indexes
    ]
    return table(["index", "on", "", "may be used by"], rows)


def _index_on(definition: str) -> str:
    return definition.partition(" USING ")[2].removeprefix("btree ")


def _triggers(one: Relation, links: Links) -> str:
    rows = [
        [
            code(trigger.name),
            code(re.sub(r"^CREATE TRIGGER \S+ (.*?) ON \S+", r"\1", trigger.definition)),
            prose(trigger.comment, links),
        ]
        for trigger in one.triggers
    ]
    return table(["trigger", "runs", ""], rows)


def _types(one: Relation, links: Links) -> str:
    return "\n\n".join(
        f"### {enum.name}\n\n{prose(enum.comment, links)}\n\n{_names(enum.labels)}."
        for enum in one.enums
    )


def _views(views: list[Relation], links: Links) -> str:
    sections = [
        section(
            view.name,
            "\n\n".join(
                [
                    prose(view.comment, links),
                    table(
                        ["column", "type", ""],
                        [
                            [code(c.name), code(c.type), prose(c.comment, links)]
                            for c in view.columns
                        ],
                    ),
                    fence("sql", _source(view)),
                ]
            ),
        )
        for view in views
    ]
    sources = ", ".join(sorted({f"schema/{view.source.name}" for view in views}))
    return page("Views", *sections, sources=f"the catalogue and {sources}")


def _source(view: Relation) -> str:
    """Return the declaration of a view as its file has it."""
    found = re.search(
        rf"^CREATE VIEW {view.name}\b.*?;$", view.source.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found, "its file was found by it"  # noqa: S101 -- what the type does not tell
    return found[0]


def _diagram(tables: list[Relation], keys: list[ForeignKey]) -> str:
    lines = ["erDiagram"]
    for key in keys:
        parent = "|o" if key.is_optional else "||"
        child = "o|" if key.is_unique else "o{"
        columns = ", ".join(key.columns)
        lines.append(f'    {key.target} {parent}--{child} {key.table} : "{columns}"')
    for one in tables:
        primary = one.constraints[0].definition
        foreign = {name for key in keys if key.table == one.name for name in key.columns}
        lines.append(f"    {one.name} {{")
        for column in one.columns:
            marks = [
                *(["PK"] if re.search(rf"\b{column.name}\b", primary) else []),
                *(["FK"] if column.name in foreign else []),
            ]
            if marks:
                lines.append(f"        {column.type} {column.name} {', '.join(marks)}")
        lines.append("    }")
    intro = (
        "The tables with their keys: a line is a foreign key, with its columns. "
        "The [pages of the tables](tables/index.md) have all columns."
    )
    return page("ER diagram", intro, fence("mermaid", "\n".join(lines)), sources="the catalogue")


def _names(columns: list[str]) -> str:
    return ", ".join(code(column) for column in columns)
