"""What a query promises about its plan, and what PostgreSQL then does.

The promise is the `@plan` mark in the comment of a query, see docs/plans.md. What happens is told
by auto_explain on the very call of the generated function, statements of triggers included.
"""

import ast
import importlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

ROOT = Path(__file__).parents[2]
SMALL = {
    "customers",
    "agents",
    "agent_configs",
    "agent_states",
    "agent_capabilities",
    "legal_holds",
    "retention_policies",
}
"""Tables of the platform itself: tens to thousands of rows, which a sequential scan reads best."""

MODES = ("custom", "generic")


@dataclass(frozen=True)
class Promise:
    """The `@plan` mark of a query."""

    indexes: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    rows: str = "0"
    buffers: str = ""


def promises() -> dict[str, Promise | None]:
    """Return what each query promises, by its name as `module.query`."""
    found: dict[str, Promise | None] = {}
    for path in sorted((ROOT / "queries").glob("*.sql")):
        for query in re.split(r"^(?=-- name: )", path.read_text(), flags=re.M)[1:]:
            name = f"{path.stem}.{query.split()[2]}"
            comment = "".join(re.findall(r"^-- ?(.*\n)", query, re.M))
            marks = re.findall(r"^@plan (.*\n(?:  .*\n)*)", comment, re.M)
            assert len(marks) < 2, f"{name} has {len(marks)} @plan marks"
            found[name] = _promise(" ".join(marks[0].split())) if marks else None
    return found


def _promise(text: str) -> Promise:
    indexes, whole, bounds = set(), set(), {"rows": "0"}
    for item in re.split(r",\s*(?![^(]*\))", text):
        if bound := re.fullmatch(r"(rows|buffers) <= (.+)", item):
            bounds[bound[1]] = bound[2]
        elif table := re.fullmatch(r"whole (\w+)", item):
            whole.add(table[1])
        elif item not in {"writes", "catalogue"}:
            assert re.fullmatch(r"[a-z_]+", item), f"@plan does not know {item!r}"
            indexes.add(item)
    return Promise(frozenset(indexes), frozenset(whole), bounds["rows"], bounds.get("buffers", ""))


def function_of(name: str) -> Callable[..., Any]:
    """Return the generated function of a query, by its name as `module.query`."""
    module, _, query = name.partition(".")
    function: Callable[..., Any] = getattr(
        importlib.import_module(f"optiinfra_db.generated.{module}"), query
    )
    return function


def names_in(expression: str) -> set[str]:
    """Return the quantities that a bound speaks of."""
    return {node.id for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Name)}


def value_of(expression: str, quantities: Mapping[str, float]) -> float:
    """Compute a bound."""
    return float(eval(expression, {"__builtins__": {}}, dict(quantities)))


@dataclass
class Seen:
    """What one statement did, with all that it called."""

    indexes: set[str] = field(default_factory=set)
    scanned: set[str] = field(default_factory=set)
    """Large tables that were read sequentially."""

    rows: int = 0
    buffers: int = 0
    has_written: bool = False
    milliseconds: float = 0.0
    plan: str = ""


class Explainer:
    """Calls generated functions, each in a transaction of its own that is rolled back."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn
        self._explained: list[tuple[float, dict[str, Any]]] = []
        conn.add_notice_handler(self._notice)
        conn.execute(
            """
            LOAD 'auto_explain';
            SET auto_explain.log_min_duration = 0;
            SET auto_explain.log_analyze = on;
            SET auto_explain.log_buffers = on;
            SET auto_explain.log_nested_statements = on;
            SET auto_explain.log_format = json;
            SET auto_explain.log_level = notice;
            SET client_min_messages = notice
            """
        )
        conn.prepare_threshold = 0  # or plan_cache_mode has nothing to choose
        self._parents = dict(
            conn.execute(
                "SELECT child.relname, parent.relname FROM pg_inherits "
                "JOIN pg_class AS child ON child.oid = inhrelid "
                "JOIN pg_class AS parent ON parent.oid = inhparent"
            ).fetchall()
        )
        # A month that the history has only just touched is read best as a whole.
        self._filled = {
            name
            for (name,) in conn.execute(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND pg_relation_size(oid) > 65536"
            )
        }

    def _notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        message = diagnostic.message_primary or ""
        if found := re.match(r"duration: ([\d.]+) ms  plan:\n", message):
            self._explained.append((float(found[1]), json.loads(message[found.end() :])))

    @contextmanager
    def _mode(self, mode: str) -> Iterator[None]:
        with self._conn.transaction(force_rollback=True):
            self._conn.execute(
                sql.SQL("SET LOCAL plan_cache_mode = {}").format(sql.Literal(f"force_{mode}_plan"))
            )
            yield

    def call(
        self,
        name: str,
        mode: str,
        arguments: Mapping[str, Any],
        before: str = "",
        *,
        role: str = "none",
        customer_id: UUID | None = None,
    ) -> tuple[Any, Seen, Seen]:
        """Return what a function returned, what its query did, and what its triggers did."""
        function = function_of(name)
        with self._mode(mode):
            if before:
                self._conn.execute(before.encode())
            self._conn.execute(
                "SELECT set_config('role', %s, true), "
                "set_config('optiinfra.customer_id', %s, true)",
                [role, str(customer_id or "")],
            )
            return self._watch(
                f"-- name: {function.__name__} ", lambda: function(self._conn, **arguments)
            )

    def vacuum(self) -> None:
        """Take away what calls have written and rolled back."""
        self._conn.execute("VACUUM (INDEX_CLEANUP ON)")

    def read(self, query: str, mode: str, arguments: Mapping[str, Any]) -> tuple[Any, Seen, Seen]:
        """Return what a query of a view returned, and did."""
        with self._mode(mode):
            return self._watch(
                query[:20], lambda: self._conn.execute(query.encode(), arguments).fetchall()
            )

    def _watch(self, start: str, act: Callable[[], Any]) -> tuple[Any, Seen, Seen]:
        self._explained.clear()
        result = act()
        self._conn.execute("SELECT")  # ends the statement before it, which is explained then
        own, nested = Seen(), Seen()
        for milliseconds, plan in self._explained:
            if plan["Query Text"] == "SELECT":
                continue
            seen = own if plan["Query Text"].startswith(start) else nested
            self._look(plan["Plan"], seen)
            seen.buffers += _buffers(plan["Plan"])
            seen.milliseconds += milliseconds
            seen.plan += "\n" + _outline(plan["Plan"])
        return result, own, nested

    def _look(self, node: dict[str, Any], seen: Seen) -> None:
        for index in [node.get("Index Name"), *node.get("Conflict Arbiter Indexes", [])]:
            if index and not index.startswith("pg_"):
                seen.indexes.add(self._parents.get(index, index))
        seen.has_written |= node["Node Type"] == "ModifyTable"
        relation = node.get("Relation Name")
        if relation and node["Node Type"].endswith("Scan") and not relation.startswith("pg_"):
            read = node.get("Actual Rows", 0) + sum(
                node.get(f"Rows Removed by {cause}", 0) for cause in ("Filter", "Index Recheck")
            )
            loops = node.get("Actual Loops", 0)
            # Before PostgreSQL 18 the average of several loops is rounded to a whole number.
            rounding = 0.5 if isinstance(read, int) and loops > 1 else 0
            table = self._parents.get(relation, relation)
            is_touched = relation != table and relation not in self._filled
            if node["Node Type"] == "Seq Scan" and table in SMALL:
                loops = 1  # read again for each row only where an index would cost more
            if not (node["Node Type"] == "Seq Scan" and is_touched):
                seen.rows += max(0, math.ceil((read - rounding) * loops))
            if node["Node Type"] == "Seq Scan" and relation in self._filled and table not in SMALL:
                seen.scanned.add(table)
        for child in node.get("Plans", []):
            self._look(child, seen)


def _buffers(node: Mapping[str, Any]) -> int:
    return sum(node.get(f"Shared {kind} Blocks", 0) for kind in ("Hit", "Read"))


def _outline(node: Mapping[str, Any], depth: int = 0) -> str:
    shown = ("Node Type", "Index Name", "Relation Name", "CTE Name", "Subplan Name")
    removed = {key: value for key, value in node.items() if key.startswith("Rows Removed by")}
    line = " ".join(str(node[key]) for key in shown if key in node)
    numbers = f"rows={node.get('Actual Rows')} loops={node.get('Actual Loops')}"
    lines = [f"{'  ' * depth}{line} ({numbers}{f' {removed}' if removed else ''})"]
    return "\n".join([*lines, *(_outline(child, depth + 1) for child in node.get("Plans", []))])
