"""The plugin's options: upstream's names, checked, with defaults."""

import ast
import builtins
import keyword
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .problems import Problems

_BOOLEANS = {
    "emit_exact_table_names": False,
    "emit_sync_querier": True,
    "emit_async_querier": True,
    "emit_pydantic_models": False,
    "emit_str_enum": True,
    "omit_unused_models": False,
}
_OTHERS = (
    "package",
    "out",
    "query_parameter_limit",
    "inflection_exclude_table_names",
    "overrides",
    "translate_errors",
)
_OVERRIDE_KEYS = ("db_type", "column", "py_import", "py_type")
# Modules that the generated code knows without a py_import.
STANDARD = ("dataclasses", "datetime", "decimal", "enum", "ipaddress", "typing", "uuid")


@dataclass(frozen=True, slots=True)
class Override:
    """A Python type of the user's for a PostgreSQL type or for one column."""

    db_type: str
    column: str
    py_import: str
    py_type: str  # as the generated code writes it: with the module's name


@dataclass(frozen=True, slots=True)
class Config:
    """What the user asked for."""

    package: str
    exact_table_names: bool
    emit_sync: bool
    emit_async: bool
    pydantic: bool
    str_enum: bool
    omit_unused_models: bool
    parameter_limit: int | None
    inflection_exclusions: tuple[str, ...]
    overrides: tuple[Override, ...]
    translate_errors: tuple[str, str] | None  # the module and the function in it


def parse_config(options: Mapping[str, Any], problems: Problems) -> Config:
    """Check the options and fill in what is absent."""
    for name in sorted(set(options) - set(_BOOLEANS) - set(_OTHERS)):
        known = ", ".join(sorted((*_BOOLEANS, *_OTHERS)))
        problems.add(f"option {name}", f"there is no such option; the options are {known}")
    flags = {name: _boolean(options, name, problems) for name in _BOOLEANS}
    return Config(
        package=_package(options, problems),
        exact_table_names=flags["emit_exact_table_names"],
        emit_sync=flags["emit_sync_querier"],
        emit_async=flags["emit_async_querier"],
        pydantic=flags["emit_pydantic_models"],
        str_enum=flags["emit_str_enum"],
        omit_unused_models=flags["omit_unused_models"],
        parameter_limit=_limit(options, problems),
        inflection_exclusions=_exclusions(options, problems),
        overrides=_overrides(options, problems),
        translate_errors=_translate_errors(options, problems),
    )


def _boolean(options: Mapping[str, Any], name: str, problems: Problems) -> bool:
    value = options.get(name)
    if value is None:
        return _BOOLEANS[name]
    if not isinstance(value, bool):
        problems.add(f"option {name}", f"must be true or false, not {value!r}")
    return bool(value)


def _package(options: Mapping[str, Any], problems: Problems) -> str:
    value = options.get("package") or ""
    if not isinstance(value, str) or (
        value and not all(part.isidentifier() for part in value.split("."))
    ):
        problems.add("option package", f"must be a dotted module name, not {value!r}")
        return ""
    return value


def _limit(options: Mapping[str, Any], problems: Problems) -> int | None:
    value = options.get("query_parameter_limit")
    if value is not None and (type(value) is not int or value < 0):
        problems.add("option query_parameter_limit", f"must be an integer >= 0, not {value!r}")
        return None
    return value


def _exclusions(options: Mapping[str, Any], problems: Problems) -> tuple[str, ...]:
    value = options.get("inflection_exclude_table_names")
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        problems.add("option inflection_exclude_table_names", "must be a list of table names")
        return ()
    return tuple(value)


def _overrides(options: Mapping[str, Any], problems: Problems) -> tuple[Override, ...]:
    value = options.get("overrides")
    if value is None:
        return ()
    if not isinstance(value, list):
        problems.add("option overrides", "must be a list")
        return ()
    overrides = []
    for number, raw in enumerate(value, 1):
        override = _entry(raw, f"option overrides, entry {number}", problems)
        overrides += [override] if override else []
    return tuple(overrides)


def _translate_errors(options: Mapping[str, Any], problems: Problems) -> tuple[str, str] | None:
    value = options.get("translate_errors")
    if value is None:
        return None
    module, _, name = value.rpartition(".") if isinstance(value, str) else ("", "", "")
    if not all(_is_name(part) for part in (*module.split("."), name)):
        problems.add(
            "option translate_errors",
            f"must be a function by its dotted name (shop.errors.translate), not {value!r}",
        )
        return None
    return module, name


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _entry(raw: object, place: str, problems: Problems) -> Override | None:
    keys = ", ".join(_OVERRIDE_KEYS)
    if not isinstance(raw, dict):
        problems.add(place, f"must be a mapping of {keys} to text")
        return None
    for key in sorted(set(raw) - set(_OVERRIDE_KEYS)):
        problems.add(place, f"there is no key {key}; the keys are {keys}")
    values = [raw.get(key, "") for key in _OVERRIDE_KEYS]
    if not all(isinstance(value, str) for value in values):
        problems.add(place, f"must be a mapping of {keys} to text")
        return None
    db_type, column, module, written = (value.strip() for value in values)
    py_type = ""
    if bool(db_type) == bool(column):
        problems.add(place, "give either db_type or column")
    elif not written:
        problems.add(place, "give py_type, the Python type to use")
    elif module and not all(part.isidentifier() for part in module.split(".")):
        problems.add(place, f"py_import {module}: must be a dotted module name")
    else:
        try:
            py_type = ast.unparse(_Qualified(module).visit(ast.parse(written, mode="eval").body))
        except (SyntaxError, ValueError) as error:
            reason = error if type(error) is ValueError else "it is no Python"
            problems.add(place, f"py_type {written}: must be a type; {reason}")
    return Override(db_type, column, module, py_type) if py_type else None


class _Qualified(ast.NodeTransformer):
    """Puts the module before the names in a type; ValueError where it is none."""

    def __init__(self, module: str) -> None:
        self._module = module

    def generic_visit(self, node: ast.AST) -> ast.AST:
        kinds = (ast.Subscript, ast.BinOp, ast.BitOr, ast.Tuple, ast.List, ast.Load)
        if not isinstance(node, kinds):
            msg = f"{ast.unparse(node)} is none"
            raise ValueError(msg)
        return super().generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return node if node.value in (None, ...) else self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        sides = [s for s in (node.left, node.right) if ast.unparse(s) != "None"]
        return self.visit(sides[0]) if len(sides) == 1 else self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return self._named(ast.unparse(node))

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return node if hasattr(builtins, node.id) else self._named(node.id)

    def _named(self, name: str) -> ast.AST:
        root = name.partition(".")[0]
        if not all(part.isidentifier() for part in name.split(".")):
            msg = f"{name} is none"
            raise ValueError(msg)
        if self._module and not name.startswith(self._module + "."):
            name = f"{self._module}.{name}"
        elif not self._module and (root == name or root not in STANDARD):
            msg = f"give py_import, the module of {name}"
            raise ValueError(msg)
        return ast.parse(name, mode="eval").body
