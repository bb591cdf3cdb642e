"""Names out of SQL as Python names: plurals, cases, labels."""

import sys

import pytest

from . import support

sys.path.insert(0, str(support.PLUGIN.parent))

from sqlc_gen_psycopg import inflection, naming


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("workflow_executions", "workflow_execution"),
        ("statuses", "status"),
        ("order_statuses", "order_status"),
        ("categories", "category"),
        ("addresses", "address"),
        ("boxes", "box"),
        ("buzzes", "buzz"),
        ("branches", "branch"),
        ("dishes", "dish"),
        ("analyses", "analysis"),
        ("indices", "index"),
        ("people", "person"),
        ("children", "child"),
        ("caches", "cache"),
        ("houses", "house"),
        ("responses", "response"),
        ("purchases", "purchase"),
        ("databases", "database"),
        ("days", "day"),
        ("queries", "query"),
        ("soliloquies", "soliloquy"),
        ("movies", "movie"),
        ("leaves", "leaf"),
        ("viruses", "virus"),
        ("buses", "bus"),
        ("heroes", "hero"),
        ("photos", "photo"),
        ("agent_metrics", "agent_metric"),
        ("series", "series"),
        ("metadata", "metadata"),
        ("data", "data"),
        ("news", "news"),
        ("status", "status"),
        ("campus", "campus"),
        ("meta", "meta"),
        ("access", "access"),
        ("analysis", "analysis"),
        ("menus", "menu"),
        ("zombies", "zombie"),
        ("echoes", "echo"),
        ("dice", "die"),
        ("geese", "goose"),
        *((name, name) for name in ("sms", "os", "ios", "kubernetes", "clothes", "jeans")),
        ("People", "Person"),
        ("USERS", "USER"),
        ("user", "user"),
        ("", ""),
    ],
)
def test_a_table_name_is_made_singular(plural: str, singular: str) -> None:
    assert inflection.singular(plural, []) == singular


def test_an_excluded_name_is_kept() -> None:
    assert inflection.singular("Agents", ["agents"]) == "Agents"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("id", "id"),
        ("class", "class_"),
        ("None", "None_"),
        ("match", "match"),
        ("1st", "_1st"),
        ("per%cent", "per_cent"),
        ("__dunder__", "_dunder__"),
        ("", "x"),
        ("?column?", "_column_"),
        ("ﬁeld", "field"),
        ("größe", "größe"),
    ],
)
def test_a_name_becomes_an_identifier(name: str, expected: str) -> None:
    assert naming.identifier(name, "x") == expected
    assert expected.isidentifier()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ListHTTPThings", "list_http_things"),
        ("getByID", "get_by_id"),
        ("list_steps", "list_steps"),
        ("X", "x"),
        ("get2Things", "get2_things"),
    ],
)
def test_a_query_name_becomes_snake_case(name: str, expected: str) -> None:
    assert naming.snake_case(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("workflow_step", "WorkflowStep"),
        ("Odd Enum", "OddEnum"),
        ("2fa_code", "T2faCode"),
        ("none", "None_"),
        ("getHTTP", "GetHTTP"),
        ("!", "T"),
    ],
)
def test_a_name_becomes_a_class_name(name: str, expected: str) -> None:
    assert naming.class_name(name) == expected


def test_labels_become_distinct_members() -> None:
    labels = ["a", "A", "a-b", "a b", "", "?", "1", "_x_", "__y__", "mro", "ß"]
    names = naming.member_names(labels)
    expected = "A A_2 A_B A_B_2 EMPTY VALUE_6 VALUE_1 X Y MRO SS"
    assert names == expected.split()
