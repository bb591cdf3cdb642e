from optiinfra_db import connect
from optiinfra_db.generated import agents
from optiinfra_db.generated.models import AgentStatus, AgentType
from optiinfra_db.seed import COST

from .command import read_json, run


def make_silent(url, name):
    with connect(url) as conn:
        conn.execute(
            "UPDATE agents SET last_heartbeat = now() - interval '1 hour' WHERE name = %s", [name]
        )


def test_list_has_load_and_is_narrowed_down(sample_url):
    listed = read_json("agents", "list", url=sample_url)
    assert len(listed) == 5
    (busy,) = (one for one in listed if one["name"] == "performance-1")
    assert (busy["running"], busy["current_workflow_type"]) == (1, "performance_tuning")
    (cost,) = read_json("agents", "list", "--type", "cost", url=sample_url)
    assert cost["id"] == str(COST)


def test_stale_lists_who_went_silent_and_marks_them_when_asked(own_url):
    result = run("agents", "stale", url=own_url)
    assert (result.returncode, result.stdout) == (0, "")
    assert "No agent was silent for 5m 0s." in result.stderr
    make_silent(own_url, "cost-1")
    with connect(own_url) as conn:
        conn.execute("UPDATE agents SET status = 'stopped' WHERE name = 'resource-1'")
        agents.upsert_agent(conn, type=AgentType.COST, name="never-heard", version="1")
        conn.execute(
            "UPDATE agents SET created_at = now() - interval '1 day' WHERE name = 'never-heard'"
        )
    make_silent(own_url, "resource-1")
    silent = read_json("agents", "stale", url=own_url, exit_code=6)
    assert [one["name"] for one in silent] == ["cost-1", "never-heard"]
    assert read_json("agents", "stale", "--silent-for", "2d", url=own_url) == []

    result = run("agents", "stale", "--fail", url=own_url)
    assert result.returncode == 6
    assert "Set 2 agents to failed." in result.stderr
    with connect(own_url) as conn:
        assert agents.get_agent(conn, id=COST).status is AgentStatus.FAILED
    assert run("agents", "stale", url=own_url).returncode == 0


def test_a_duration_that_is_none_says_what_one_is(sample_url):
    for text in ("5", "m", "5 minutes", "-5m", "999999999w"):
        result = run("agents", "stale", f"--silent-for={text}", url=sample_url)
        assert result.returncode == 2
        assert "no duration" in result.stderr or "too long" in result.stderr
