"""The dashboard of docs/grafana works on the sample data, with the rights that its guide gives."""

import json
import re
import shutil
import subprocess
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import combinations, pairwise
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from optiinfra_db import connect
from optiinfra_db.errors import PermissionDenied, ReadOnlyTransaction
from optiinfra_db.generated import approvals, customers, recommendations, workflow_executions
from optiinfra_db.generated.models import (
    AgentStatus,
    AgentStatusDetail,
    RecommendationPriority,
    WorkflowStatus,
)
from optiinfra_db.seed import ATLAS, COST, INDIE, NIMBUS, seed

from .conftest import cloned_database
from .grafana_support import (
    DASHBOARD,
    FILE,
    PANELS,
    QUERIED,
    VARIABLES,
    Window,
    expanded,
    overrides,
    sql_of,
    titles,
)

GUIDE = (Path(__file__).parents[1] / "docs" / "guides" / "grafana.md").read_text()
CUSTOMERS = [str(customer) for customer in (INDIE, NIMBUS, ATLAS)]
DATASOURCE = {"type": "grafana-postgresql-datasource", "uid": "${DS_POSTGRESQL}"}
SHOWN = (str, int, float, bool, Decimal, datetime, type(None))
"""What Grafana takes as it is: it makes text of an interval or a UUID."""

over_all_panels = pytest.mark.parametrize("panel", QUERIED, ids=titles(QUERIED))


def block(language):
    """Return the one block of code of the guide that is in this language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.S | re.M)
    return text


@pytest.fixture(scope="module")
def grafana(migrated_template):
    """Connect as the role of the guide to sample data with something to see in each panel."""
    with cloned_database(migrated_template) as url, connect(url) as owner:
        seed(owner)
        workflow_executions.create_workflow_execution(
            owner,
            customer_id=ATLAS,
            agent_id=COST,
            workflow_type="health_check",
            step_names=["check"],
        )
        proposed = recommendations.create_recommendation(
            owner, customer_id=ATLAS, agent_id=COST, type="cache", title="Cache more"
        )
        approvals.create_approval(owner, customer_id=ATLAS, recommendation_id=proposed.id)
        owner.execute(block("sql"))
        try:
            with psycopg.connect(url, user="grafana", autocommit=True) as conn:
                yield conn
        finally:
            owner.execute("DROP OWNED BY grafana; DROP ROLE grafana")


@pytest.fixture
def ask(grafana):
    """Return the rows of SQL of the dashboard as dicts, of all customers or of one."""
    (now,) = grafana.execute("SELECT now()").fetchone()
    window = Window(now - timedelta(hours=24), now)

    def ask(sql, customer=None):
        cursor = grafana.execute(expanded(sql, window, customer))
        names = [column.name for column in cursor.description]
        assert len(set(names)) == len(names)
        return names, [dict(zip(names, row, strict=True)) for row in cursor]

    return ask


@over_all_panels
def test_a_panel_shows_something_on_the_sample_data(panel, ask):
    _, rows = ask(sql_of(panel))

    assert rows
    for row in rows:
        assert all(isinstance(value, SHOWN) for value in row.values()), row


@over_all_panels
def test_a_panel_shows_the_chosen_customer_and_no_other(panel, ask):
    names, everything = ask(sql_of(panel))
    for customer in CUSTOMERS:
        names_of_one, of_one = ask(sql_of(panel), customer)
        assert names_of_one == names
        if "customer" in names:
            assert len({row["customer"] for row in of_one}) <= 1
            assert len(of_one) <= len(everything)


def test_the_numbers_of_the_customers_add_up_to_those_of_all(ask):
    added_up = {"Running", "Waiting", "Ended", "On the table", "Waiting for the customer"}
    panels = [panel for panel in QUERIED if panel["title"] in added_up]
    assert len(panels) == len(added_up)
    for panel in panels:
        (name,), (everything,) = ask(sql_of(panel))
        of_each = [ask(sql_of(panel), customer)[1][0][name] for customer in CUSTOMERS]
        assert everything[name] == sum(of_each) > 0, panel["title"]


@over_all_panels
def test_a_panel_has_the_fields_that_it_says_how_to_show(panel, ask):
    names, rows = ask(sql_of(panel))

    assert {name for name, _ in overrides(panel)} <= set(names)
    options = panel["options"]
    if panel["type"] == "stat":
        assert (len(names), len(rows)) == (1, 1)
    if panel["type"] == "barchart":
        assert options["xField"] in names
    if panel["type"] == "bargauge":
        pattern = options["reduceOptions"]["fields"].strip("/")
        assert [name for name in names if re.search(pattern, name)]


@pytest.mark.parametrize(
    "panel", [panel for panel in QUERIED if panel["type"] == "timeseries"], ids=lambda p: p["title"]
)
def test_a_time_series_has_a_time_in_order_and_numbers(panel, ask):
    assert panel["targets"][0]["format"] == "time_series"

    (first, *others), rows = ask(sql_of(panel))

    assert first == "time"
    assert all(earlier["time"] <= later["time"] for earlier, later in pairwise(rows))
    texts = {name for name in others if isinstance(rows[0][name], str)}
    assert texts <= {"metric"}


def mapped(title, field):
    """Return the values that a panel gives a colour in a field."""
    (panel,) = (panel for panel in QUERIED if panel["title"] == title)
    (mapping,) = dict(overrides(panel))[field]["mappings"]
    return set(mapping["options"])


def test_every_state_has_a_colour():
    assert mapped("Agent load", "status") == set(AgentStatus)
    assert mapped("Agent load", "activity") == set(AgentStatusDetail)
    assert mapped("Open questions to customers", "priority") == set(RecommendationPriority)
    assert mapped("Failed workflows", "status") == {"failed", "timeout"}
    (outcomes,) = (panel for panel in QUERIED if panel["title"] == "Runs ended, by outcome")
    over = set(WorkflowStatus) - {WorkflowStatus.PENDING, WorkflowStatus.RUNNING}
    assert {name for name, _ in overrides(outcomes)} == over


def test_the_variable_offers_every_customer_by_name(grafana, ask):
    (variable,) = VARIABLES
    assert (variable["name"], variable["multi"], variable["includeAll"]) == (
        "customer",
        False,
        True,
    )

    names, rows = ask(variable["query"])

    assert names == ["__text", "__value"]
    assert sorted(row["__value"] for row in rows) == sorted(CUSTOMERS)


def test_the_data_source_is_chosen_on_import_and_never_fixed():
    (chosen,) = DASHBOARD["__inputs"]
    assert DATASOURCE["uid"] == f"${{{chosen['name']}}}"
    assert chosen["pluginId"] == DATASOURCE["type"]
    named = [VARIABLES[0], *QUERIED, *(target for panel in QUERIED for target in panel["targets"])]
    assert [holder["datasource"] for holder in named] == [DATASOURCE] * len(named)


def test_every_panel_says_what_it_is_and_has_a_place_of_its_own():
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert len(set(titles(PANELS))) == len(PANELS)
    assert all(panel["description"].endswith(".") for panel in QUERIED)
    required = {need["id"] for need in DASHBOARD["__requires"] if need["type"] == "panel"}
    assert {panel["type"] for panel in QUERIED} == required

    def cells(panel):
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        return {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }

    taken = {panel["title"]: cells(panel) for panel in PANELS}
    assert [(a, b) for a, b in combinations(taken, 2) if taken[a] & taken[b]] == []
    everywhere = set().union(*taken.values())
    assert len(everywhere) == 24 * (1 + max(y for _, y in everywhere))


def test_the_guide_speaks_of_every_row():
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert re.findall(r"^\| (\w+) \|", GUIDE, re.M)[1:] == rows


def test_the_role_of_the_guide_can_neither_write_nor_see_secrets(grafana):
    for secret in ("api_key_hash FROM api_keys", "config_value FROM agent_configs"):
        with pytest.raises(InsufficientPrivilege):
            grafana.execute(f"SELECT {secret}")
    with pytest.raises(ReadOnlyTransaction):
        customers.delete_customer(grafana, id=INDIE)
    grafana.execute("SET default_transaction_read_only = off")
    with pytest.raises(PermissionDenied):
        customers.delete_customer(grafana, id=INDIE)
    grafana.execute("RESET default_transaction_read_only")


def test_the_guide_puts_its_data_source_into_a_file_for_provisioning(tmp_path):
    (tmp_path / "dashboards").mkdir()
    shutil.copy(FILE, tmp_path)

    subprocess.run(["bash", "-euc", block("console")], cwd=tmp_path, check=True)

    written = (tmp_path / "dashboards" / "optiinfra.json").read_text()
    assert "DS_POSTGRESQL}" not in written
    (uid,) = re.findall(r"uid: (\S+)", GUIDE)
    assert json.loads(written)["panels"][1]["datasource"]["uid"] == uid
