"""Two promises of the generated code, checked on whatever the test suite happens to run.

Every value that a generated function returns is of the type its annotation says, None included
(the compiler of queries guesses nullability); and, when the whole suite ran, every query ran.
"""

import collections.abc
import dataclasses
import functools
import importlib
import inspect
import pkgutil
import sys
import types
import typing
from typing import Any

import pytest

from optiinfra_db import generated

BUILTIN = {bool, bytes, float, int, str}
"""Types to be met exactly: a bool is an int, and an enum a str, but not for the caller."""


class Contract:
    """The plugin: watches the functions of the runtime that run queries."""

    def __init__(self) -> None:
        self.ran: set[str] = set()

    def pytest_sessionstart(self) -> None:
        runtime = importlib.import_module("optiinfra_db.generated._runtime")
        for name, function in inspect.getmembers(runtime, inspect.isfunction):
            if not name.startswith("_") and "sql" in inspect.signature(function).parameters:
                setattr(runtime, name, self._watched(function))

    def _watched(self, function: Any) -> Any:
        @functools.wraps(function)
        def watched(conn: Any, sql: str, *args: Any, **options: Any) -> Any:
            self.ran.add(sql)
            caller = sys._getframe(1)
            result = function(conn, sql, *args, **options)
            if caller.f_globals is function.__globals__:  # one function of the runtime by another
                return result
            if inspect.isawaitable(result):
                return check_later(result, caller)
            return check(result, caller)

        return watched

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if missing := self._missing(terminalreporter.config):
            terminalreporter.section("queries that no test runs", red=True)
            for name in missing:
                terminalreporter.line(name)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not session.testsfailed and self._missing(session.config):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _missing(self, config: pytest.Config) -> list[str]:
        selections = "keyword markexpr deselect ignore ignore_glob lf collectonly maxfail stepwise"
        is_part = config.args_source == pytest.Config.ArgsSource.ARGS or any(
            config.getoption(name, default=False) for name in selections.split()
        )
        if is_part:
            return []
        return sorted(name for name, sql in queries() if sql not in self.ran)


def queries() -> collections.abc.Iterator[tuple[str, str]]:
    """Yield the name and text of every query of the generated code."""
    for found in pkgutil.iter_modules(generated.__path__):
        if found.name.startswith("_") or found.ispkg:
            continue
        module = importlib.import_module(f"{generated.__name__}.{found.name}")
        for value in vars(module).values():
            if isinstance(value, str) and value.startswith("-- name: "):
                yield f"{found.name}.{value.split()[2]}", value


async def check_later(result: Any, caller: types.FrameType) -> Any:
    return check(await result, caller)


def check(value: Any, caller: types.FrameType) -> Any:
    """Return the value if it is what the generated function that asked for it promises."""
    name = caller.f_code.co_name
    if function := caller.f_globals.get(name):
        problem = mismatch(value, hints(function)["return"], "result")
        assert problem is None, f"{caller.f_globals['__name__']}.{name}: {problem}"
    return value


hints: Any = functools.cache(typing.get_type_hints)


def mismatch(value: Any, hint: Any, path: str) -> str | None:
    """Say where a value differs from its annotation."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    problems: collections.abc.Iterable[str | None] = ()
    if hint is Any or isinstance(hint, str | typing.ForwardRef):  # the inside of a recursive alias
        return None
    if origin in {typing.Union, types.UnionType}:
        is_right = any(mismatch(value, arm, path) is None for arm in args)
        if not is_right and value is not None and type(None) in args and len(args) == 2:
            arm = args[0] if args[1] is type(None) else args[1]
            return mismatch(value, arm, path)
    elif hint is None or hint is type(None):
        is_right = value is None
    elif hint in BUILTIN:
        is_right = type(value) is hint
    else:
        is_right = isinstance(value, origin or hint)
        if origin in {list, collections.abc.Sequence} and is_right:
            problems = (mismatch(item, args[0], f"{path}[{n}]") for n, item in enumerate(value))
        elif origin in {dict, collections.abc.Mapping} and is_right:
            problems = (mismatch(item, args[1], f"{path}[{key!r}]") for key, item in value.items())
        elif dataclasses.is_dataclass(hint) and is_right:
            problems = (
                mismatch(getattr(value, name), inner, f"{path}.{name}")
                for name, inner in hints(hint).items()
            )
    if not is_right:
        return f"{path} is {value!r}, but annotated {hint}"
    return next((problem for problem in problems if problem), None)
