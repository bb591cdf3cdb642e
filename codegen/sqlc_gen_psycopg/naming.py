"""Names that came from SQL as names that Python takes."""

import keyword
import re
import unicodedata
from collections.abc import Iterable

_NOT_WORD = re.compile(r"\W+")
_CAMEL_WORD = re.compile(r"(.)([A-Z][a-z]+)")
_CAMEL_STEP = re.compile(r"([a-z0-9])([A-Z])")


def identifier(name: str, fallback: str) -> str:
    """Make a name an identifier, changing no more than is needed."""
    word = _word(name) or fallback
    if word.startswith("__"):  # inside a class Python would mangle it
        word = "_" + word.lstrip("_")
    if word[0].isdigit() or word == "_":
        word = "_" + word
    return word + "_" if keyword.iskeyword(word) else word


def snake_case(name: str) -> str:
    """`ListHTTPThings`, `listHttpThings` and `list_http_things` as `list_http_things`."""
    return _CAMEL_STEP.sub(r"\1_\2", _CAMEL_WORD.sub(r"\1_\2", name)).lower().replace("__", "_")


def class_name(name: str) -> str:
    """Make a name PascalCase, as upstream does: the words' first letters in upper case."""
    word = "".join(part[:1].upper() + part[1:] for part in _word(name).split("_"))
    if not word or word[0].isdigit():
        word = "T" + word
    return word + "_" if keyword.iskeyword(word) else word


def member_names(labels: Iterable[str]) -> list[str]:
    """Name the members of an enum: upper case, distinct, never empty."""
    names: list[str] = []
    for position, label in enumerate(labels, 1):
        name = _word(label).upper().strip("_")
        if not name:
            name = f"VALUE_{position}" if label else "EMPTY"
        elif name[0].isdigit():
            name = f"VALUE_{name}"
        names.append(unique(name, names))
    return names


def unique(name: str, taken: Iterable[str]) -> str:
    """Add `_2`, `_3` ... to a name until it is not taken."""
    used = set(taken)
    candidate, number = name, 1
    while candidate in used:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _word(name: str) -> str:
    normal = unicodedata.normalize("NFKC", name)
    return "".join(
        part
        if ("a" + part).isidentifier()
        else "".join(c for c in part if ("a" + c).isidentifier())
        for part in _NOT_WORD.sub("_", normal)
    )
