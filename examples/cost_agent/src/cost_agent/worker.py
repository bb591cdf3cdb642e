"""The process: works off the runs that wait for the agent."""

import argparse
import time
from uuid import UUID

from cost_agent.analysis import analyze_costs
from optiinfra_db import connect
from optiinfra_db.seed import COST
from optiinfra_db.workflows import claim_workflow


def work_once(agent_id: UUID, *, url: str | None = None, store: str = "artifacts") -> bool:
    """Do the run that waits longest; return whether there was one."""
    with connect(url, actor="cost-agent") as conn:
        with claim_workflow(conn, agent_id=agent_id, requeue=1, store=store) as run:
            if run is not None:
                analyze_costs.execute(run)
        return run is not None


def main() -> None:
    """Work until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", type=UUID, default=COST, help="whose runs (the sample one's)")
    parser.add_argument("--store", default="artifacts", help="where reports go (artifacts)")
    parser.add_argument("--once", action="store_true", help="end when no run waits any more")
    arguments = parser.parse_args()
    while True:
        try:
            was_there = work_once(arguments.agent, store=arguments.store)
        except Exception as error:
            print(f"failed: {error}")  # recorded with its run, and put back to the queue once
            continue
        if was_there:
            continue
        if arguments.once:
            return
        time.sleep(1)


if __name__ == "__main__":
    main()
