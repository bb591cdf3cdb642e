-- A recommendation is a change that an agent proposes to a customer, with what it should save or
-- improve. The customer approves or rejects it; once approved it is carried out as an optimization.
--
-- Written by agents, mostly at the end of a run. A few rows a run.

CREATE TYPE recommendation_priority AS ENUM ('low', 'medium', 'high', 'critical');
COMMENT ON TYPE recommendation_priority IS 'How much a recommendation matters, least first.';

CREATE TYPE recommendation_status AS ENUM (
    'pending', 'approved', 'rejected', 'executing', 'completed', 'failed', 'rolled_back'
);
COMMENT ON TYPE recommendation_status IS
'State of a recommendation: pending -> approved -> executing -> completed | failed, which may'
' be rolled_back; or rejected.';

CREATE TABLE recommendations (
    customer_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT uuidv7(),
    agent_id uuid NOT NULL,
    workflow_execution_id uuid,
    type text NOT NULL,
    title text NOT NULL,
    description text NOT NULL DEFAULT '',
    estimated_savings numeric(12, 2),
    estimated_improvement numeric(10, 2),
    confidence_score double precision,
    priority recommendation_priority NOT NULL DEFAULT 'medium',
    status recommendation_status NOT NULL DEFAULT 'pending',
    approved_at timestamptz,
    executed_at timestamptz,
    data jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT recommendations_pkey PRIMARY KEY (customer_id, id),
    CONSTRAINT recommendations_customer_id_fkey FOREIGN KEY (customer_id)
    REFERENCES customers (id) ON DELETE CASCADE,
    CONSTRAINT recommendations_agent_id_fkey FOREIGN KEY (agent_id)
    REFERENCES agents (id) ON DELETE CASCADE,
    CONSTRAINT recommendations_workflow_execution_id_fkey
    FOREIGN KEY (customer_id, workflow_execution_id)
    REFERENCES workflow_executions (customer_id, id) ON DELETE SET NULL (workflow_execution_id),
    CONSTRAINT recommendations_type_check CHECK (char_length(type) BETWEEN 1 AND 100),
    CONSTRAINT recommendations_title_check CHECK (char_length(title) BETWEEN 1 AND 255),
    -- BETWEEN also keeps NaN out, which PostgreSQL sorts above every number.
    CONSTRAINT recommendations_estimated_savings_check CHECK (
        estimated_savings BETWEEN 0 AND 9999999999.99
    ),
    CONSTRAINT recommendations_estimated_improvement_check CHECK (
        estimated_improvement BETWEEN 0 AND 99999999.99
    ),
    CONSTRAINT recommendations_confidence_score_check CHECK (confidence_score BETWEEN 0 AND 1),
    CONSTRAINT recommendations_approved_at_check CHECK (
        CASE
            WHEN status = 'pending' THEN approved_at IS NULL
            WHEN status = 'rejected' THEN true
            ELSE approved_at IS NOT NULL
        END
    ),
    CONSTRAINT recommendations_executed_at_check CHECK (
        (status IN ('completed', 'failed', 'rolled_back')) = (executed_at IS NOT NULL)
        AND (executed_at >= approved_at) IS NOT false
    ),
    CONSTRAINT recommendations_data_check CHECK (jsonb_typeof(data) = 'object')
);
COMMENT ON TABLE recommendations IS 'Changes that agents propose to customers.';
COMMENT ON COLUMN recommendations.customer_id IS 'Tenant.';
COMMENT ON COLUMN recommendations.id IS 'UUIDv7; the caller may supply it, to create safely twice.';
COMMENT ON COLUMN recommendations.agent_id IS 'The agent that proposes it.';
COMMENT ON COLUMN recommendations.workflow_execution_id IS
'The run that produced it; NULL where none did, or that one was deleted.';
COMMENT ON COLUMN recommendations.type IS
'What kind of change: rightsize_gpu, tier_storage, ..., 1 to 100 characters.';
COMMENT ON COLUMN recommendations.title IS 'One line for people, 1 to 255 characters.';
COMMENT ON COLUMN recommendations.description IS 'The whole proposal, for people.';
COMMENT ON COLUMN recommendations.estimated_savings IS
'What it should save, in USD a month; NULL where that was not estimated.';
COMMENT ON COLUMN recommendations.estimated_improvement IS
'What it should improve, as a multiplier (2.00 is twice as fast); NULL where that was not '
'estimated.';
COMMENT ON COLUMN recommendations.confidence_score IS
'How sure the agent is, 0 to 1; NULL where it can not say.';
COMMENT ON COLUMN recommendations.priority IS 'How much it matters.';
COMMENT ON COLUMN recommendations.status IS 'State; see the type.';
COMMENT ON COLUMN recommendations.approved_at IS 'When it was approved.';
COMMENT ON COLUMN recommendations.executed_at IS 'When carrying it out ended, well or badly.';
COMMENT ON COLUMN recommendations.data IS 'Object with what carries it out needs to know.';
COMMENT ON COLUMN recommendations.created_at IS 'When the row was written.';
COMMENT ON COLUMN recommendations.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX recommendations_pkey IS
'Serves get_recommendation, list_recommendations and every transition.';

CREATE INDEX recommendations_agent_id_customer_id_id_idx
ON recommendations (agent_id, customer_id, id);
COMMENT ON INDEX recommendations_agent_id_customer_id_id_idx IS
'Serves list_recommendations_by_agent, and deleting an agent.';

CREATE INDEX recommendations_customer_id_workflow_execution_id_idx
ON recommendations (customer_id, workflow_execution_id)
WHERE workflow_execution_id IS NOT NULL;
COMMENT ON INDEX recommendations_customer_id_workflow_execution_id_idx IS
'Serves list_workflow_recommendations, and deleting a run.';

-- People look through recommendations in many ways, and agents write few: so there is an index for
-- each way.
CREATE INDEX recommendations_customer_id_status_id_idx
ON recommendations (customer_id, status, id);
COMMENT ON INDEX recommendations_customer_id_status_id_idx IS
'Serves list_recommendations_by_status, list_open_recommendations and '
'list_open_recommendations_by_savings.';

CREATE INDEX recommendations_customer_id_type_id_idx
ON recommendations (customer_id, type, id);
COMMENT ON INDEX recommendations_customer_id_type_id_idx IS
'Serves list_recommendations_by_type.';

CREATE INDEX recommendations_customer_id_priority_id_idx
ON recommendations (customer_id, priority, id);
COMMENT ON INDEX recommendations_customer_id_priority_id_idx IS
'Serves list_recommendations_by_priority.';

CREATE INDEX recommendations_customer_id_estimated_savings_id_idx
ON recommendations (customer_id, estimated_savings, id)
WHERE estimated_savings IS NOT NULL;
COMMENT ON INDEX recommendations_customer_id_estimated_savings_id_idx IS
'Serves list_recommendations_by_savings.';

CREATE INDEX recommendations_customer_id_created_at_idx
ON recommendations (customer_id, created_at);
COMMENT ON INDEX recommendations_customer_id_created_at_idx IS
'Serves list_savings.';

CREATE TRIGGER recommendations_enforce_transitions
BEFORE UPDATE ON recommendations
FOR EACH ROW
EXECUTE FUNCTION enforce_transitions(
    'pending -> approved | rejected',
    'approved -> executing | rejected',
    'executing -> completed | failed',
    'completed -> rolled_back',
    'failed -> rolled_back'
);
COMMENT ON TRIGGER recommendations_enforce_transitions ON recommendations IS
'The state machine; also keeps updated_at.';

CREATE FUNCTION record_recommendation_event() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO events (
        customer_id, created_at, agent_id, event_type, severity, subject_type, subject_id, data
    )
    VALUES (
        NEW.customer_id,
        clock_timestamp(),
        NEW.agent_id,
        'recommendation.' || NEW.status,
        CASE NEW.status
            WHEN 'failed' THEN 'error'
            WHEN 'rolled_back' THEN 'warning'
            ELSE 'info'
        END::event_severity,
        'recommendation',
        NEW.id,
        jsonb_build_object('from', OLD.status, 'to', NEW.status)
    );
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION record_recommendation_event() IS
'Trigger: writes creation and status changes to the audit log.';

CREATE TRIGGER recommendations_record_creation
AFTER INSERT ON recommendations
FOR EACH ROW
EXECUTE FUNCTION record_recommendation_event();
COMMENT ON TRIGGER recommendations_record_creation ON recommendations IS 'The audit log.';

CREATE TRIGGER recommendations_record_event
AFTER UPDATE ON recommendations
FOR EACH ROW WHEN (OLD.status != NEW.status)
EXECUTE FUNCTION record_recommendation_event();
COMMENT ON TRIGGER recommendations_record_event ON recommendations IS 'The audit log.';

DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION record_recommendation_event() SET search_path = %I, pg_temp', current_schema()
    );
END
$do$;
