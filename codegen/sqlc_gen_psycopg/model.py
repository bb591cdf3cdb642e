"""The modules to write: classes, constants and functions, with every name settled.

Names are settled here and nowhere else, so that a clash is found here and reported.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import PurePosixPath

from .comments import Comment, parse_comment
from .config import Config
from .inflection import singular
from .naming import class_name, identifier, member_names, snake_case, unique
from .pgtypes import PyType, TypeMap, UnknownTypeError, canonical, enum_class
from .problems import Problems
from .request import Column, Identifier, Query, Request, Table
from .request import Parameter as QueryParameter
from .sqltext import (
    Insert,
    folded,
    insert,
    is_grouped,
    may_be_null,
    outer_joined,
    select_list,
    tokens,
    unquoted,
)

ROW_COMMANDS = (":one", ":many", ":batchone", ":batchmany")
STREAM_COMMANDS = (":copyfrom", ":batchexec", ":batchone", ":batchmany")
COMMANDS = (*ROW_COMMANDS, ":exec", ":execrows", ":execresult", ":copyfrom", ":batchexec")
RESERVED_MODULES = ("models", "_runtime", "aio", "__init__", "py")
_RESERVED_CLASSES = ("JSON", "INET", "CIDR", "Range", "Multirange")
_PYDANTIC_NAMES = (
    "construct copy dict fields_set from_orm json parse_file parse_obj parse_raw schema "
    "schema_json update_forward_refs validate"
)
_PYDANTIC = frozenset(_PYDANTIC_NAMES.split())
_TEXT_AFTER = {"?": 0, "?|": 1, "?&": 1}  # jsonb operators, and the depth of what follows them


@dataclass(frozen=True, slots=True)
class EnumClass:
    """A StrEnum."""

    name: str
    comment: str
    members: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a class."""

    name: str
    type: PyType
    comment: str = ""


@dataclass(frozen=True, slots=True)
class RowClass:
    """A dataclass for rows of a table, of a result, or of parameters."""

    name: str
    doc: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A table's class."""

    table: Table
    row: RowClass


@dataclass(frozen=True, slots=True)
class Item:
    """A field of a result: a column, or a whole table embedded."""

    name: str
    type: PyType | None
    comment: str = field(default="", compare=False)  # those of a CTE have none
    embed: Model | None = None
    nullable: bool = False
    many: bool = False  # a list of the embedded table's rows


@dataclass(frozen=True, slots=True)
class Result:
    """What a query's rows become: a scalar, a table's model, or a class of their own."""

    items: tuple[Item, ...]
    model: Model | None
    row_class: str  # of its own
    is_shared: bool = False  # or with other queries of the file

    @property
    def has_records(self) -> bool:
        """Whether there are records in its rows, whose types only binary format tells."""
        return any(item.many for item in self.items)

    @property
    def types(self) -> Iterator[tuple[str, PyType]]:
        """Its columns, those of embedded tables too, by name."""
        for item in self.items:
            if item.type:
                yield item.name, item.type
            for of_embed in item.embed.row.fields if item.embed else ():
                yield f"{item.name}.{of_embed.name}", of_embed.type


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a function."""

    name: str
    type: PyType


@dataclass(frozen=True, slots=True)
class Function:
    """A query as a function, sync and async."""

    query: str  # its name in SQL
    name: str
    constant: str
    sql: str
    command: str
    doc: str
    parameters: tuple[Parameter, ...]
    params_class: str  # empty: each parameter is an argument of its own
    result: Result | None
    exactly_one: bool
    copy_types: tuple[str, ...] = ()

    @property
    def is_binary(self) -> bool:
        """Whether its rows are fetched in binary format: those of lists are where they can be."""
        if self.result is None:
            return False
        return self.result.has_records or (
            self.command == ":many"
            and all(type_.is_same_in_binary for _, type_ in self.result.types)
        )


@dataclass(frozen=True, slots=True)
class QueryModule:
    """A query file as a module."""

    name: str
    source: str
    functions: tuple[Function, ...]


@dataclass(slots=True)
class Package:
    """All there is to write."""

    enums: list[EnumClass] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    modules: list[QueryModule] = field(default_factory=list)


def build(request: Request, config: Config, problems: Problems) -> Package:
    """Settle what to write; what cannot be is in `problems`."""
    if request.engine != "postgresql":
        problems.add("engine", f"only postgresql is supported, not {request.engine or 'none'}")
    types = TypeMap(request, config.overrides)
    package = Package(_enums(request), _models(request, config, types, problems))
    _check_classes(package, request, problems)
    builder = _QueryBuilder(request, config, types, package.models, problems)
    files: dict[str, list[Query]] = {}
    for query in request.queries:
        files.setdefault(query.filename, []).append(query)
    for filename in sorted(files):
        package.modules.append(builder.module(filename, files[filename]))
    if config.omit_unused_models:
        used = set(_models_of_results(package.modules))
        package.models = [model for model in package.models if model.row.name in used]
    _check_modules(package, problems)
    _check_overrides(request, config, types, problems)
    return package


def _models_of_results(modules: Iterable[QueryModule]) -> Iterator[str]:
    for module in modules:
        for result in (function.result for function in module.functions):
            if result:
                models = (result.model, *(item.embed for item in result.items))
                yield from (model.row.name for model in models if model)


def _enums(request: Request) -> list[EnumClass]:
    classes = [
        EnumClass(
            enum_class(enum, request.default_schema),
            enum.comment,
            tuple(zip(member_names(enum.labels), enum.labels, strict=True)),
        )
        for enum in request.enums
    ]
    return sorted(classes, key=lambda cls: cls.name)


def _models(request: Request, config: Config, types: TypeMap, problems: Problems) -> list[Model]:
    models = []
    for table in request.tables:
        name = table.id.name
        if table.id.schema != request.default_schema:
            name = f"{table.id.schema}_{name}"
        if not config.exact_table_names:
            name = singular(name, config.inflection_exclusions)
        fields = []
        for column in table.columns:
            place = f"table {table.id.name}, column {column.name}"
            name_of = _field_name(column.name, config, "column")
            column_type = _type(types, column, place, problems)
            fields.append(Field(name_of, column_type, column.comment))
        _check_distinct(
            [(f.name, c.name) for f, c in zip(fields, table.columns, strict=True)],
            f"table {table.id.name}",
            "column",
            problems,
        )
        doc = table.comment or f"A row of `{table.id.name}`."
        models.append(Model(table, RowClass(_model_class(name), doc, tuple(fields))))
    return sorted(models, key=lambda model: model.row.name)


def _model_class(name: str) -> str:
    cls = class_name(name)
    return cls + "_" if cls in _RESERVED_CLASSES else cls


def _field_name(name: str, config: Config, fallback: str) -> str:
    word = identifier(name, fallback)
    word = "mro_" if word == "mro" else word  # to dataclasses, every class has a default for it
    if not config.pydantic:
        return word
    word = word.lstrip("_") or fallback
    word = f"{fallback}_{word}" if word[0].isdigit() else word
    return word + "_" if word in _PYDANTIC or word.startswith("model_") else word


def _type(types: TypeMap, column: Column, place: str, problems: Problems) -> PyType:
    try:
        return types.of(column)
    except UnknownTypeError as error:
        complaint = (
            f"PostgreSQL type {error} has no Python type here; "
            "give it one with an overrides entry (db_type, py_type), or cast it"
        )
        if error.missing:
            complaint += (
                f" (no schema file is at {', '.join(error.missing)}: "
                "run sqlc in the folder of its configuration)"
            )
        problems.add(place, complaint)
        return PyType("typing.Any")


def _check_distinct(
    names: Iterable[tuple[str, str]], place: str, kind: str, problems: Problems
) -> None:
    seen: dict[str, str] = {}
    for name, source in names:
        if name in seen:
            problems.add(
                place,
                f"{kind}s {seen[name]!r} and {source!r} are both {name} in Python; rename one",
            )
        seen.setdefault(name, source)


def _check_classes(package: Package, request: Request, problems: Problems) -> None:
    sources = [(enum_class(e, request.default_schema), f"enum {e.id}") for e in request.enums]
    sources += [(m.row.name, f"table {m.table.id}") for m in package.models]
    seen: dict[str, str] = {}
    for name, source in sources:
        if name in seen:
            problems.add(
                "models.py",
                f"{seen[name]} and {source} are both the class {name}; "
                "name a table in inflection_exclude_table_names or rename one",
            )
        seen.setdefault(name, source)


def _check_overrides(request: Request, config: Config, types: TypeMap, problems: Problems) -> None:
    columns = {f"{t.id.schema}.{t.id.name}.{c.name}" for t in request.tables for c in t.columns}
    for override in config.overrides:
        name = override.column.replace('"', "")
        if name and name.count(".") not in (1, 2):
            problems.add("option overrides", f"column {override.column}: write table.column")
        elif name and not {name, f"{request.default_schema}.{name}"} & columns:
            problems.add("option overrides", f"column {name}: there is no such column")
        if override.db_type and not types.knows(override.db_type):
            problems.add(
                "option overrides",
                f"db_type {override.db_type}: there is no such type"
                + "; name the type of the elements" * override.db_type.endswith("[]"),
            )


def _check_modules(package: Package, problems: Problems) -> None:
    seen: dict[str, str] = {}
    for module in package.modules:
        place = module.source
        if module.name in RESERVED_MODULES:
            problems.add(place, f"{module.name}.py is a module of the generator's; rename the file")
        if module.name in seen:
            problems.add(place, f"{seen[module.name]} becomes {module.name}.py as well; rename one")
        seen.setdefault(module.name, module.source)
        names: dict[str, str] = {}
        for function in module.functions:
            query = f"query {function.query}"
            owners = dict.fromkeys((function.name, function.constant, function.params_class), query)
            if function.result:
                cls = function.result.row_class
                owners[cls] = f"@row {cls}" if function.result.is_shared else query
            owners.pop("", None)
            for name, owner in owners.items():
                if names.setdefault(name, owner) != owner:
                    problems.add(
                        f"{place}, {query}",
                        f"{names[name]} takes the Python name {name} as well; rename one",
                    )


@dataclass(frozen=True, slots=True)
class _Selected:
    """What a query's text says of one of its columns."""

    model: Model | None = None  # embedded
    alias: str = ""  # that tells it from others of its table
    nullable: bool = False
    complaint: str = ""


def _fitted(
    items: Sequence[Sequence[str]], models: Sequence[Model | None]
) -> list[tuple[Model | None, Sequence[str]]]:
    """Give each column or embed its item of the select list; nothing where they do not fit."""
    fitted: list[tuple[Model | None, Sequence[str]]] = []
    index = 0
    for model in models:
        columns = [column.name for column in model.table.columns] if model else [""]
        part = items[index : index + len(columns)]
        index += len(columns)
        if len(part) < len(columns):
            return []
        if model and any(
            [*item[:-1], unquoted(item[-1])] != [part[0][0], ".", name]
            for item, name in zip(part, columns, strict=True)
        ):
            return []
        fitted.append((model, part[0]))
    return fitted if index == len(items) else []


def _unfitted(column: Column, tables: Sequence[Model | None]) -> _Selected:
    if len(tables) == 1:
        return _Selected(tables[0])
    complaint = f"there is no table {column.embed}"
    if tables:
        complaint = f"it is unclear which table {column.embed} is; give it an alias in FROM"
    return _Selected(complaint=complaint)


class _QueryBuilder:
    """Turns queries into functions."""

    def __init__(
        self,
        request: Request,
        config: Config,
        types: TypeMap,
        models: Sequence[Model],
        problems: Problems,
    ) -> None:
        self._default = request.default_schema
        self._config = config
        self._types = types
        self._models = {self._key(m.table.id): m for m in models}
        self._problems = problems

    def module(self, filename: str, queries: Sequence[Query]) -> QueryModule:
        stem = PurePosixPath(filename.replace("\\", "/")).name
        name = identifier(stem.removesuffix(".sql").removesuffix(".py"), "queries")
        functions = [self._function(query) for query in queries]
        self._check_shared(functions, stem)
        return QueryModule(name, stem, tuple(functions))

    def _check_shared(self, functions: Sequence[Function], stem: str) -> None:
        """Check that queries with one @row return the same columns."""
        first: dict[str, Function] = {}
        for function in functions:
            if function.result and function.result.is_shared:
                same = first.setdefault(function.result.row_class, function)
                if same.result != function.result:
                    self._problems.add(
                        f"{stem}, query {function.name}",
                        f"@row {function.result.row_class}: its columns differ from those of "
                        f"query {same.name}; select the same, or name another class",
                    )

    def _function(self, query: Query) -> Function:
        place = f"{query.filename}, query {query.name}"
        comment = parse_comment(query.comments, place, self._problems)
        if query.command not in COMMANDS:
            advice = f"use one of {', '.join(COMMANDS)}"
            if query.command == ":execlastid":
                advice = "PostgreSQL has no last id; use :one with RETURNING"
            self._problems.add(place, f"{query.command} is not supported; {advice}")
        if comment.exactly_one and query.command != ":one":
            self._problems.add(place, "@returns exactly one is for :one queries")
        name = identifier(snake_case(query.name), "query")
        cls = class_name(query.name)
        target = insert(tokens(query.text)) if query.command == ":copyfrom" else None
        query = replace(query, parameters=self._described(query, target))
        params_class = self._params_class(query, cls, place)
        parameters = self._parameters(query, comment, place, spread=not params_class)
        result = None
        if query.command in ROW_COMMANDS:
            result = self._result(query, cls, comment, place)
        elif comment.nullable or comment.many or comment.row:
            self._problems.add(
                place, f"@nullable, @many, @row: a {query.command} query returns no columns"
            )
        sql = query.text.strip()
        copy_types: tuple[str, ...] = ()
        if query.command == ":copyfrom":
            sql, parameters, copy_types = self._copy(query, target, parameters, place)
        return Function(
            query=query.name,
            name=name,
            constant=identifier(snake_case(query.name).upper(), "QUERY"),
            sql=f"-- name: {query.name} {query.command}\n{sql}\n",
            command=query.command,
            doc=comment.prose or f"Run the query `{query.name}`.",
            parameters=parameters,
            params_class=params_class,
            result=result,
            exactly_one=comment.exactly_one,
            copy_types=copy_types,
        )

    def _params_class(self, query: Query, cls: str, place: str) -> str:
        limit = self._config.parameter_limit
        if query.command in STREAM_COMMANDS:
            if not query.parameters:
                self._problems.add(place, f"a {query.command} query needs parameters")
        elif limit is None or not query.parameters or len(query.parameters) <= limit:
            return ""
        return cls + "Params"

    def _parameters(
        self, query: Query, comment: Comment, place: str, *, spread: bool
    ) -> tuple[Parameter, ...]:
        parameters: list[Parameter] = []
        sources: dict[str, str] = {}
        for number, parameter in enumerate(query.parameters, 1):
            column = parameter.column
            if parameter.number != number:
                self._problems.add(place, f"${number} is used nowhere; number from $1 up")
            if column.is_slice:
                self._problems.add(
                    place, f"sqlc.slice({column.name}): use = ANY(@{column.name}::type[])"
                )
            source = column.name or f"dollar_{parameter.number}"
            name = _field_name(source, self._config, f"dollar_{parameter.number}")
            name = "conn_" if name == "conn" and spread else name
            if sources.get(name, source) != source:
                self._problems.add(
                    place,
                    f"parameters {sources[name]!r} and {source!r} are both {name} in Python; "
                    "name one with sqlc.arg(...)",
                )
            sources[name] = source
            name = unique(name, [p.name for p in parameters])
            type_ = _type(self._types, column, f"{place}, parameter {source}", self._problems)
            if {source, name} & comment.required:
                type_ = replace(type_, nullable=False)
            parameters.append(Parameter(name, type_))
        for name in sorted(comment.required - {*sources, *sources.values()}):
            known = ", ".join(sources) or "none"
            self._problems.add(place, f"@required {name}: no such parameter; it has {known}")
        return tuple(parameters)

    def _described(self, query: Query, target: Insert | None) -> tuple[QueryParameter, ...]:
        """Correct what sqlc says of parameters: jsonb's operators, INSERT without columns."""
        words = tokens(query.text)
        after = dict(zip(words[1:], words, strict=False))
        table = self._models.get(self._key(target.table)) if target else None
        described = []
        for parameter in query.parameters:
            column = parameter.column
            place = f"${parameter.number}"
            operator = after.get(place, "")
            if operator in _TEXT_AFTER and canonical(column.type) in ("json", "jsonb"):
                dims = _TEXT_AFTER[operator]
                column = replace(column, type=Identifier("", "text"), dims=dims, table=None)
            elif target and table and not target.columns and place in target.values:
                declared = table.table.columns[target.values.index(place)]
                column = replace(declared, table=table.table.id, original_name=declared.name)
            described.append(replace(parameter, column=column))
        return tuple(described)

    def _result(self, query: Query, cls: str, comment: Comment, place: str) -> Result | None:
        items: list[Item] = []
        sources: dict[str, str] = {}
        unmet = {*comment.nullable, *comment.not_null, *comment.many}
        selected = self._selected(query)
        for position, (column, found) in enumerate(zip(query.columns, selected, strict=True), 1):
            source = column.name or f"column_{position}"
            model = None
            if column.embed:
                model = found.model
                if model is None:
                    self._problems.add(place, f"sqlc.embed: {found.complaint}")
                    continue
                source = found.alias or snake_case(model.row.name).strip("_")
            if column.name in comment.many:
                table = comment.many[column.name]
                unmet.discard(column.name)
                model = self._models.get(self._key(Identifier("", table)))
                if model is None:
                    self._problems.add(place, f"@many {column.name}: there is no table {table}")
                    continue
            name = _field_name(source, self._config, f"column_{position}")
            names = {source, name, column.name}
            nullable = bool(names & comment.nullable) or (
                found.nullable and not names & comment.not_null
            )
            unmet -= names & (comment.nullable | comment.not_null)
            if sources.get(name, source) != source:
                self._problems.add(
                    place,
                    f"columns {sources[name]!r} and {source!r} are both {name} in Python; "
                    "rename one with AS",
                )
            sources[name] = source
            name = unique(name, [item.name for item in items])
            if model:
                many = not column.embed
                items.append(Item(name, None, embed=model, nullable=nullable, many=many))
                continue
            type_ = _type(self._types, column, f"{place}, column {source}", self._problems)
            if nullable or names & comment.not_null:
                type_ = replace(type_, nullable=nullable)
            items.append(Item(name, type_, self._comment_of(column)))
        for name in sorted(unmet):
            known = ", ".join(item.name for item in items)
            marks = ("many" if name in comment.many else "notnull", "nullable")
            mark = marks[name in comment.nullable]
            self._problems.add(place, f"@{mark} {name}: there is no such column; it has {known}")
        if not items:
            self._problems.add(
                place, f"a {query.command} query has to return columns; use :exec if it does not"
            )
            return None
        if len(items) == 1 and items[0].type:
            return Result(tuple(items), None, "")
        model = None if comment.row else self._matching_model(query, items)
        row_class = "" if model else comment.row or cls + "Row"
        result = Result(tuple(items), model, row_class, is_shared=bool(comment.row))
        if result.has_records:
            self._check_binary(query, result, place)
        return result

    def _check_binary(self, query: Query, result: Result, place: str) -> None:
        """Refuse beside @many what has no binary form that psycopg reads."""
        if query.command not in (":one", ":many"):
            self._problems.add(place, "@many is for :one and :many queries")
        for name, type_ in result.types:
            if not type_.is_binary:
                kind = type_.base or f"array of {type_.annotation}"
                self._problems.add(
                    place, f"@many has rows sent in binary, which {name} ({kind}) cannot be read in"
                )

    def _selected(self, query: Query) -> list[_Selected]:
        """Find in the text which tables are embedded, under which names, and what may be NULL."""
        words = tokens(query.text)
        items = select_list(words)
        choices = [self._embeddable(column, words) for column in query.columns]
        fitting = [f for f in map(partial(_fitted, items), product(*choices)) if f]
        if len(fitting) != 1:
            return [_unfitted(c, found) for c, found in zip(query.columns, choices, strict=True)]
        keys = [self._key(model.table.id) if model else None for model, _ in fitting[0]]
        outer, grouped = outer_joined(words), is_grouped(words)
        return [
            _Selected(
                model,
                alias=unquoted(item[0]) if key and keys.count(key) > 1 else "",
                nullable=may_be_null(item, outer, grouped=grouped),
            )
            for (model, item), key in zip(fitting[0], keys, strict=True)
        ]

    def _embeddable(self, column: Column, words: Sequence[str]) -> list[Model | None]:
        """List the tables that an embed may mean; sqlc leaves out the schema of one in FROM."""
        if not column.embed:
            return [None]
        wanted = column.embed
        text = [folded(word) for word in words]
        qualified = {
            schema
            for schema, dot, name in zip(text, text[1:], text[2:], strict=False)
            if (dot, name) == (".", wanted.name)
        }
        schemas = {wanted.schema} if wanted.schema else {self._default, *qualified}
        keys = [(schema, wanted.name) for schema in sorted(schemas)]
        return [self._models[key] for key in keys if key in self._models]

    def _comment_of(self, column: Column) -> str:
        model = self._models.get(self._key(column.table)) if column.table else None
        comments = {c.name: c.comment for c in model.table.columns} if model else {}
        return comments.get(column.original_name, "")

    def _matching_model(self, query: Query, items: Sequence[Item]) -> Model | None:
        """Find the table whose columns these are, as they are or through a CTE."""
        if any(item.embed for item in items):
            return None
        shape = [
            (c.name, self._types.key(c), i.type and i.type.nullable)
            for c, i in zip(query.columns, items, strict=True)
        ]
        same = [
            model
            for model in self._models.values()
            if [(c.name, self._types.key(c), not c.not_null) for c in model.table.columns] == shape
        ]
        tables = {self._key(c.table) if c.table else None for c in query.columns}
        for model in same:
            if tables == {self._key(model.table.id)}:
                return model
        if any(key in self._models for key in tables):
            return None
        named = [m for m in same if re.search(rf"\b{re.escape(m.table.id.name)}\b", query.text)]
        return named[0] if len(named) == 1 else None

    def _copy(
        self, query: Query, target: Insert | None, parameters: tuple[Parameter, ...], place: str
    ) -> tuple[str, tuple[Parameter, ...], tuple[str, ...]]:
        columns = target and (target.columns or self._unnamed_columns(target))
        if not target or not columns:
            self._problems.add(
                place, ":copyfrom takes INSERT INTO table (columns) VALUES ($1, ...) and no more"
            )
            return query.text, parameters, ()
        ordered = tuple(parameters[int(value[1:]) - 1] for value in target.values)
        types = tuple(p.type.copy_type for p in ordered)
        binary = all(types) and not target.has_casts
        form = "binary" if binary else "text"
        sql = f"COPY {target.written} ({', '.join(columns)}) FROM STDIN (FORMAT {form})"
        return sql, ordered, types if binary else ()

    def _unnamed_columns(self, target: Insert) -> tuple[str, ...]:
        model = self._models.get(self._key(target.table))
        columns = model.table.columns[: len(target.values)] if model else ()
        return tuple('"{}"'.format(column.name.replace('"', '""')) for column in columns)

    def _key(self, name: Identifier) -> tuple[str, str]:
        return name.schema or self._default, name.name
