"""What the cases write and read: the same for every peer."""

from dataclasses import dataclass
from uuid import UUID

from optiinfra_db import connect
from optiinfra_db.generated import agents, customers
from optiinfra_db.generated.models import AgentType, ArtifactType, WorkflowType

WORKFLOW_TYPE = WorkflowType.COST_ANALYSIS
STEPS = ("collect_metrics", "analyze_usage", "model_savings", "recommend", "write_report")
INPUT = {"window": "30d", "regions": ["us-east-1", "eu-west-1"], "min_savings": 500}
STEP_OUTPUT = {"metrics": 1247, "instances": 38, "idle_gpu_hours": 412.5}
OUTPUT = {"savings_usd_a_month": 60000, "recommendations": 3}


@dataclass(frozen=True)
class Artifact:
    """What a step leaves: its row, but for the path, which differs from run to run."""

    step: int
    """Place in STEPS."""

    type: ArtifactType
    name: str
    suffix: str
    size_bytes: int
    content_type: str
    sha256: bytes


ARTIFACTS = (
    Artifact(
        0, ArtifactType.METRICS, "Usage", "usage.parquet", 48_211, "application/parquet", bytes(32)
    ),
    Artifact(
        3, ArtifactType.CHART, "Savings by region", "savings.svg", 9_120, "image/svg+xml", bytes(32)
    ),
    Artifact(
        4, ArtifactType.REPORT, "Cost report", "report.pdf", 182_334, "application/pdf", bytes(32)
    ),
)


@dataclass(frozen=True)
class Platform:
    """A customer, and an agent that works for it."""

    customer_id: UUID
    agent_id: UUID


def platform(url: str) -> Platform:
    """Write a customer and an agent."""
    with connect(url) as conn:
        customer = customers.create_customer(
            conn, name="Bench", email="bench@example.com", api_key_hash=bytes(32)
        )
        agent = agents.upsert_agent(conn, type=AgentType.COST, name="bench-agent", version="1.0.0")
        return Platform(customer.id, agent.id)
