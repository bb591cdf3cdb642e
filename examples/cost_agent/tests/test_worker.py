"""The process commits and connects itself: on a database of its own."""

from cost_agent.analysis import analyze_costs
from cost_agent.worker import work_once
from optiinfra_db import connect
from optiinfra_db.generated import workflow_executions
from optiinfra_db.generated.models import WorkflowStatus
from optiinfra_db.seed import ATLAS, COST, seed


def test_the_queue_is_worked_off(optiinfra_db_url, tmp_path):
    with connect(optiinfra_db_url) as conn:
        seed(conn)
        waiting = [analyze_costs.enqueue(conn, customer_id=ATLAS, agent_id=COST) for _ in range(2)]

        worked = [work_once(COST, url=optiinfra_db_url, store=str(tmp_path)) for _ in range(3)]

        assert worked == [True, True, False]
        for run in waiting:
            found = workflow_executions.get_workflow_execution(conn, customer_id=ATLAS, id=run.id)
            assert found.status is WorkflowStatus.COMPLETED
    assert len(list(tmp_path.rglob("savings.md"))) == 2
