"""Python source text as `ruff format` would lay it out: calls, signatures, strings, docstrings."""

import re
import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 100
_INDENT = "    "
_SENTENCE = re.compile(r"(.+?[.!?])(?:\s+(?=[^a-z])|$)", re.DOTALL)


def call(prefix: str, items: Sequence[str], suffix: str = "", *, around: int = 0) -> str:
    """Write `prefix(items)suffix` on one line where it fits, else an item a line.

    `around` is the width of what is before and after it on its line. Without a prefix it is a
    tuple.
    """
    comma = "," if len(items) == 1 and not prefix else ""
    line = f"{prefix}({', '.join(items)}{comma}){suffix}"
    if not items or ("\n" not in line and around + len(line) <= WIDTH):
        return line
    body = "".join(f"{_INDENT}{shift(item)},\n" for item in items)
    return f"{prefix}(\n{body}){suffix}"


def subscript(prefix: str, index: str, *, around: int) -> str:
    """Write `prefix[index]` on one line where it fits."""
    line = f"{prefix}[{index}]"
    return line if around + len(line) <= WIDTH else f"{prefix}[\n{_INDENT}{index}\n]"


def assignment(target: str, value: str, *, around: int = 0) -> str:
    """Write `target = value`, the value in parentheses where that makes it fit."""
    line = f"{target} = {value}"
    if around + len(line) <= WIDTH or around + len(_INDENT + value) > WIDTH:
        return line
    return f"{target} = (\n{_INDENT}{value}\n)"


def parameter(name: str, annotation: str, default: str) -> str:
    """Declare a parameter; a very long name breaks its annotation."""
    line = f"{name}: {annotation}{default}"
    if len(_INDENT) + len(line) + 1 <= WIDTH:
        return line
    core, union, _ = annotation.partition(" | None")
    head, bracket, inner = core.partition("[")
    if bracket and len(_INDENT) + len(f"{name}: {core}") > WIDTH:
        core = f"{head}[\n{_INDENT}{inner[:-1]}\n]"
    return f"{name}: {core}" + (f"\n{union.lstrip()}" if union else "") + default


def field(name: str, annotation: str, default: str) -> str:
    """Declare a field of a class; a very long name puts its annotation in parentheses."""
    line = f"{name}: {annotation}{default}"
    if len(_INDENT) + len(line) <= WIDTH:
        return line
    if default and len(_INDENT) + len(f"{name}: {annotation} = (") <= WIDTH:
        return f"{name}: {annotation} = (\n{_INDENT}{default.removeprefix(' = ')}\n)"
    return f"{name}: (\n{_INDENT}{annotation}\n){default}"


def shift(text: str) -> str:
    """Indent all lines but the first."""
    return text.replace("\n", "\n" + _INDENT)


def block(text: str) -> str:
    """Indent every line that is not empty."""
    return textwrap.indent(text, _INDENT)


def string(text: str) -> str:
    """Write a literal on one line."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    escaped = text.replace("\\", "\\\\").replace(quote, "\\" + quote)
    return quote + "".join(c if c.isprintable() else _escape(c) for c in escaped) + quote


def sql_literal(text: str) -> str:
    """Write a triple-quoted literal that shows SQL as it was written."""
    special = '"""' in text or any(not (c.isprintable() or c == "\n") for c in text)
    if "\\" in text and not special:
        return f'r"""{text}"""'
    escaped = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    shown = "".join(c if c.isprintable() or c == "\n" else _escape(c) for c in escaped)
    return f'"""{shown}"""'


def docstring(text: str, indent: int) -> str:
    """Write a docstring: the first sentence on its own line, the rest below, nothing too long."""
    width = WIDTH - indent
    lines = [line.expandtabs(4).rstrip() for line in text.splitlines()]
    clean = "\n".join("".join(c if c.isprintable() else " " for c in line) for line in lines)
    paragraphs = re.split(r"\n\s*\n", textwrap.dedent(clean).strip())
    first = " ".join(paragraphs[0].split())
    sentence = _SENTENCE.match(first)
    summary = sentence[1] if sentence else first
    rest = first[len(summary) :].strip()
    if len(summary) > width - 8:
        wrapped = textwrap.wrap(first, width)
        summary, rest = wrapped[0], "\n".join(wrapped[1:])
        parts = [f"{summary}\n{rest}"] if rest else [summary]
    else:
        parts = [summary if summary[-1:] in ".!?:" else summary + "."]
        if rest:
            parts.append(textwrap.fill(rest, width, break_long_words=False))
    parts += ["\n".join(_wrapped(p.strip("\n").splitlines(), width)) for p in paragraphs[1:]]
    body = "\n\n".join(parts)
    prefix = ""
    if "\\" in body and '"""' not in body:
        prefix = "r"
    else:
        body = body.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    if "\n" not in body:
        space = " " if body.endswith('"') else ""
        return f'{prefix}"""{body}{space}"""'
    return f'{prefix}"""{body}\n"""'


def _wrapped(lines: Iterable[str], width: int) -> Iterable[str]:
    for line in lines:
        if len(line) <= width:
            yield line
        else:
            lead = line[: len(line) - len(line.lstrip())]
            yield from textwrap.wrap(line, width, initial_indent="", subsequent_indent=lead)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
