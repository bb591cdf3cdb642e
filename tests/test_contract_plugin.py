import dataclasses
import enum
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from .contract_plugin import Contract, mismatch, queries


class Colour(enum.StrEnum):
    RED = "red"


@dataclasses.dataclass
class Inner:
    number: int


@dataclasses.dataclass
class Outer:
    inner: Inner | None
    colours: list[Colour]
    extra: dict[str, Any]


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (1, int),
        (None, int | None),
        (None, None),
        ("red", str),
        (Colour.RED, Colour),
        (Decimal(1), Decimal | None),
        ([1, None], list[int | None]),
        (Outer(Inner(1), [Colour.RED], {"a": None}), Outer),
        ([Outer(None, [], {})], list[Outer]),
        (object(), Any),
    ],
)
def test_a_value_of_its_type_is_accepted(value, hint):
    assert mismatch(value, hint, "result") is None


@pytest.mark.parametrize(
    ("value", "hint", "where"),
    [
        (None, int, "result"),
        (True, int, "result"),
        (1, float, "result"),
        (1, None, "result"),
        ("red", Colour, "result"),
        (Colour.RED, str, "result"),
        (1, str | None, "result"),
        ((1,), list[int], "result"),
        ([1, None], list[int], "result[1]"),
        ([Outer(Inner("1"), [], {})], list[Outer], "result[0].inner.number"),  # type: ignore[arg-type]
        (Outer(None, ["red"], {}), Outer, "result.colours[0]"),  # type: ignore[list-item]
    ],
)
def test_another_value_is_pointed_at(value, hint, where):
    problem = mismatch(value, hint, "result")
    assert problem is not None
    assert problem.startswith(f"{where} is ")


def test_a_wrong_row_fails_the_test_that_fetched_it(conn, monkeypatch):
    from optiinfra_db.generated import agents

    agents.get_agent(conn, id=uuid4())
    monkeypatch.setitem(agents.get_agent.__annotations__, "return", "int")
    from .contract_plugin import hints

    hints.cache_clear()
    with pytest.raises(AssertionError, match=r"agents\.get_agent: result is None, but annotated"):
        agents.get_agent(conn, id=uuid4())
    hints.cache_clear()


def test_every_query_has_a_name_and_running_it_is_noticed(conn, request):
    from optiinfra_db.generated import agents

    plugin = next(p for p in request.config.pluginmanager.get_plugins() if type(p) is Contract)
    found = dict(queries())
    assert len(found) > 50
    agents.list_agents(conn, max_rows=1)
    assert found["agents.list_agents"] in plugin.ran
