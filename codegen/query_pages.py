"""The query files and the functions made of them as pages."""

import ast
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pages import Links, code, fence, page, prose, section, table

FOLDER = Path("queries")

_QUERY = re.compile(
    r"^-- name: (?P<name>\w+) .*\n(?P<comment>(?:--.*\n)*)(?P<sql>(?:.|\n)*?)(?=^-- name: |\Z)",
    re.M,
)
_PLAN = re.compile(r"^-- @plan (.*\n(?:--   .*\n)*)", re.M)
_ROWS = "Rows and parameters"


@dataclass(frozen=True, slots=True)
class Query:
    """A query as its file has it: the statement, and the contract in its comment."""

    sql: str
    plan: str


@dataclass(frozen=True)
class Module:
    """A query file, and the module that was generated from it."""

    sql: Path
    python: Path

    @property
    def name(self) -> str:
        """Return the name that both have."""
        return self.sql.stem

    @cached_property
    def queries(self) -> dict[str, Query]:
        """Return the queries by name, in the order of the file."""
        return {
            match["name"]: Query(match["sql"], _plan(match["comment"]))
            for match in _QUERY.finditer(self.sql.read_text())
        }

    @cached_property
    def lines(self) -> list[str]:
        """Return the lines of the generated module."""
        return self.python.read_text().splitlines()

    @cached_property
    def definitions(self) -> dict[str, ast.FunctionDef | ast.ClassDef]:
        """Return the public functions and classes of the module by name."""
        return {
            node.name: node
            for node in ast.parse("\n".join(self.lines)).body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        }

    def signature(self, name: str) -> str:
        """Return the head of a function as it is written."""
        function = self.definitions[name]
        return "\n".join(self.lines[function.lineno - 1 : function.body[0].lineno - 1])

    def doc(self, name: str) -> str:
        """Return the docstring of a function, but for the plan contract that ends it."""
        doc = ast.get_docstring(self.definitions[name]) or ""
        return doc.partition("@plan")[0].strip()

    def classes(self, name: str) -> list[str]:
        """Return the module's classes that a function takes or returns."""
        words = re.findall(r"\w+", self.signature(name))
        return [word for word in words if isinstance(self.definitions.get(word), ast.ClassDef)]


def _plan(comment: str) -> str:
    return "; ".join(plan.replace("\n--", "").strip() for plan in _PLAN.findall(comment))


def modules(queries: Path, generated: Path) -> list[Module]:
    """Pair the query files with their generated modules."""
    return [Module(path, generated / f"{path.stem}.py") for path in sorted(queries.glob("*.sql"))]


def uses_of_indexes(modules: list[Module]) -> dict[str, list[str]]:
    """Return the queries that name an index in their plan contract."""
    uses: dict[str, list[str]] = {}
    for module in modules:
        for name, query in module.queries.items():
            for word in re.findall(r"\w+", query.plan):
                uses.setdefault(word, []).append(name)
    return uses


def links(modules: list[Module]) -> Links:
    """Say where the names of queries lead."""
    return {
        name: f"{FOLDER}/{module.name}.md#{name}" for module in modules for name in module.queries
    }


def pages(modules: list[Module], links: Links) -> dict[Path, str]:
    """Write the pages, a module each and an index, with their places in docs/."""
    return {
        FOLDER / "index.md": _index(modules, links),
        **{FOLDER / f"{module.name}.md": _page(module, links) for module in modules},
    }


def _index(modules: list[Module], links: Links) -> str:
    sections = [
        section(
            f"[{module.name}]({module.name}.md)",
            "\n".join(
                f"- {prose(name, links)}: {_summary(module, name, links)}"
                for name in module.queries
            ),
        )
        for module in modules
    ]
    intro = (
        "Each query is a function of `optiinfra_db.generated`, under the same name in "
        "`optiinfra_db.generated.aio` to be awaited."
    )
    return page("Queries", intro, *sections, sources="queries/")


def _summary(module: Module, name: str, links: Links) -> str:
    first = re.split(r"[.:]\s", module.doc(name), maxsplit=1)[0]
    return prose(" ".join(first.removesuffix(".").split()), links) + "."


def _page(module: Module, links: Links) -> str:
    about = f"On the table {prose(module.name, links)}. " if module.name in links else ""
    classes = dict.fromkeys(name for query in module.queries for name in module.classes(query))
    return page(
        module.name,
        f"{about}The functions of `optiinfra_db.generated.{module.name}`; "
        f"in `optiinfra_db.generated.aio.{module.name}` they are asynchronous.",
        *(_query(module, name, links) for name in module.queries),
        section(_ROWS, "\n\n".join(_class(module, name, links) for name in classes)),
        sources=f"queries/{module.sql.name} and generated/{module.python.name}",
    )


def _query(module: Module, name: str, links: Links) -> str:
    query = module.queries[name]
    classes = ", ".join(f"[`{name}`](#{name.lower()})" for name in module.classes(name))
    parts = [
        prose(module.doc(name), links),
        fence("python", module.signature(name)),
        f"Fields: {classes}." if classes else "",
        f"[Plan](../plans.md): {code(query.plan)}" if query.plan else "",
        fence("sql", query.sql),
    ]
    return section(name, "\n\n".join(part for part in parts if part))


def _class(module: Module, name: str, links: Links) -> str:
    definition = module.definitions[name]
    rows = []
    for node in definition.body:
        if isinstance(node, ast.AnnAssign):
            rows.append([code(ast.unparse(node.target)), code(ast.unparse(node.annotation)), ""])
        elif rows and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            rows[-1][-1] = prose(str(node.value.value), links)
    doc = prose(ast.get_docstring(definition) or "", links)
    return f"### {name}\n\n{doc}\n\n{table(['field', 'type', ''], rows)}"
