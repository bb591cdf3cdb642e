"""The dashboard of docs/grafana reads what its time range needs, on a long history too."""

from datetime import timedelta

import pytest

from ..grafana_support import QUERIED, Window, expanded, sql_of, titles


@pytest.mark.parametrize("is_of_one", [True, False], ids=["one", "all"])
@pytest.mark.parametrize("panel", QUERIED, ids=titles(QUERIED))
def test_a_panel_reads_no_large_table_whole(panel, is_of_one, explainer, largest):
    window = Window(largest.now - timedelta(hours=24), largest.now)
    customer = str(largest.customer) if is_of_one else None

    rows, seen, _ = explainer.read(expanded(sql_of(panel), window, customer), "custom", {})

    assert rows
    assert not seen.scanned, seen.plan
