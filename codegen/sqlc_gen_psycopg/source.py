"""A Python module being written: its names, its imports, its frame."""

import re
from collections.abc import Callable, Iterable

from .config import STANDARD, Config
from .layout import docstring, string
from .pgtypes import PyType

# Lint rules that names and texts out of SQL may break.
_NOQA = (
    "# ruff: noqa: A001, ANN401, D205, D301, D401, D403, E501, E741, E742, I001, N801, N803, N815, "
    "N816, N999, PLC2401, PYI016, RUF001, RUF002, RUF003, RUF022, RUF100, UP042, W291, W293"
)
_STANDARD = ("builtins", *STANDARD)
_FROM = {
    "AsyncIterable": "collections.abc",
    "Iterable": "collections.abc",
    "Multirange": "psycopg.types.multirange",
    "Range": "psycopg.types.range",
}
_BUILTIN_NAMES = "bool bytes dict float frozenset int list object set str tuple"
_BUILTINS = frozenset(_BUILTIN_NAMES.split())
NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*")


class Source:
    """A module being written: it knows what to import, and under which name.

    A name that the module defines itself hides an import of the same name, even as a field of a
    class; such an import gets an underscore.
    """

    def __init__(self, header: str, doc: str, config: Config, level: str, taken: set[str]) -> None:
        self._header = header
        self._doc = docstring(doc, 0)
        self._config = config
        self._level = level
        self._taken = taken
        self._used: set[str] = set()
        self._modules: dict[str, str] = {}
        self.members: list[str] = []
        self.exported: list[str] = []
        self.parts: list[str] = []

    def ref(self, expression: str, imports: Iterable[str] = ()) -> str:
        """Write an expression in this module's names."""
        aliases = {name: self._user_module(name) for name in imports if name not in STANDARD}
        self._modules.update(aliases)
        for name, alias in aliases.items():
            expression = expression.replace(f"{name}.", f"{alias}.")
        kept = {alias.partition(".")[0] for alias in aliases.values()} | {"None"}

        def resolve(match: re.Match[str]) -> str:
            name = match[0]
            if name in kept:
                return name
            if name in _BUILTINS:
                if name not in self._taken:
                    return name
                return self.ref("builtins") + "." + name
            self._used.add(name)
            return self._local(name)

        return NAME.sub(resolve, expression)

    def typed(self, type_: PyType) -> str:
        """Write an annotation."""
        return self.ref(type_.full, type_.imports)

    def text(self) -> str:
        """Write the whole module."""
        groups = [self._standard(), self._third_party(), self._own()]
        imports = "\n\n".join("\n".join(group) for group in groups if group)
        exported = "".join(
            f"    {string(name)},\n" for name in sorted(self.exported, key=export_order)
        )
        parts = [f"__all__ = [\n{exported}]"] if exported else []
        parts += self.parts
        head = f"{self._header}\n{_NOQA}\n{self._doc}\n" + (f"\n{imports}\n" if imports else "")
        first_is_block = bool(parts) and parts[0].startswith(("class", "def", "@", "async"))
        body = "\n\n\n".join(parts) + "\n" if parts else ""
        return head + ("\n\n" if first_is_block else "\n") * bool(body) + body

    def _local(self, name: str) -> str:
        return "_" + name.lstrip("_") + "_" * name.startswith("_") if name in self._taken else name

    def _user_module(self, name: str) -> str:
        root = name.partition(".")[0]
        return "_" + name.replace(".", "_") if root in self._taken else name

    def _import(self, name: str) -> str:
        local = self._local(name)
        return name if local == name else f"{name} as {local}"

    def _standard(self) -> list[str]:
        lines = [f"import {self._import(name)}" for name in _STANDARD if name in self._used]
        return lines + self._from(lambda module: module.startswith("collections"))

    def _third_party(self) -> list[str]:
        names = {self._import(name) for name in ("psycopg", "pydantic") if name in self._used}
        for name, alias in self._modules.items():
            names.add(name if name == alias else f"{name} as {alias}")
        lines = [f"import {name}" for name in sorted(names)]
        return lines + self._from(lambda module: module.startswith("psycopg"))

    def _from(self, wanted: Callable[[str], bool]) -> list[str]:
        modules: dict[str, list[str]] = {}
        for name, module in sorted(_FROM.items()):
            if name in self._used and wanted(module):
                modules.setdefault(module, []).append(self._import(name))
        return [f"from {module} import {', '.join(names)}" for module, names in modules.items()]

    def _own(self) -> list[str]:
        package = self._config.package or self._level
        names = [self._import(name) for name in ("_runtime", "models") if name in self._used]
        plain = [f"from {package} import {', '.join(n for n in names if ' as ' not in n)}"]
        aliased = [f"from {package} import {name}" for name in names if " as " in name]
        return (plain if len(aliased) < len(names) else []) + aliased + self.members


def export_order(name: str) -> tuple[int, list[object], str]:
    """Sort as isort does: constants, classes, the rest; numbers by value."""
    kind = 0 if name.isupper() else 1 if name[:1].isupper() else 2
    natural: list[object] = [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]
    return kind, natural, name
