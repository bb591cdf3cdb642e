-- An optimization is an approved recommendation being carried out, and what it really brought.
--
-- Written by the agent that carries it out. progress is updated often while it executes, so no
-- index holds it, and it stands before the payload.

CREATE TYPE optimization_status AS ENUM (
    'queued', 'executing', 'completed', 'failed', 'rolled_back'
);
COMMENT ON TYPE optimization_status IS
'State of an optimization: queued -> executing -> completed | failed, which may be '
'rolled_back.';

CREATE TABLE optimizations (
    customer_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT uuidv7(),
    recommendation_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    workflow_execution_id uuid,
    status optimization_status NOT NULL DEFAULT 'queued',
    progress integer NOT NULL DEFAULT 0,
    started_at timestamptz,
    completed_at timestamptz,
    rolled_back_at timestamptz,
    actual_savings numeric(12, 2),
    actual_improvement numeric(10, 2),
    error text,
    result jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT optimizations_pkey PRIMARY KEY (customer_id, id),
    CONSTRAINT optimizations_recommendation_id_fkey FOREIGN KEY (customer_id, recommendation_id)
    REFERENCES recommendations (customer_id, id) ON DELETE CASCADE,
    CONSTRAINT optimizations_agent_id_fkey FOREIGN KEY (agent_id)
    REFERENCES agents (id) ON DELETE CASCADE,
    CONSTRAINT optimizations_workflow_execution_id_fkey
    FOREIGN KEY (customer_id, workflow_execution_id)
    REFERENCES workflow_executions (customer_id, id) ON DELETE SET NULL (workflow_execution_id),
    CONSTRAINT optimizations_progress_check CHECK (progress BETWEEN 0 AND 100),
    -- BETWEEN also keeps NaN out, which PostgreSQL sorts above every number.
    CONSTRAINT optimizations_actual_savings_check CHECK (
        actual_savings BETWEEN -9999999999.99 AND 9999999999.99
    ),
    CONSTRAINT optimizations_actual_improvement_check CHECK (
        actual_improvement BETWEEN 0 AND 99999999.99
    ),
    CONSTRAINT optimizations_error_check CHECK (
        status != 'failed'
        OR coalesce(char_length(error), 0) > 0
    ),
    CONSTRAINT optimizations_started_at_check CHECK (
        CASE
            WHEN status = 'queued' THEN started_at IS NULL
            WHEN status IN ('executing', 'completed') THEN started_at IS NOT NULL
            ELSE true
        END
    ),
    CONSTRAINT optimizations_completed_at_check CHECK (
        (status IN ('completed', 'failed', 'rolled_back')) = (completed_at IS NOT NULL)
        AND (completed_at >= started_at) IS NOT false
    ),
    CONSTRAINT optimizations_rolled_back_at_check CHECK (
        (status = 'rolled_back') = (rolled_back_at IS NOT NULL)
        AND (rolled_back_at >= completed_at) IS NOT false
    ),
    CONSTRAINT optimizations_result_check CHECK (jsonb_typeof(result) = 'object')
);
COMMENT ON TABLE optimizations IS
'Recommendations being carried out, and what they really brought.';
COMMENT ON COLUMN optimizations.customer_id IS 'Tenant.';
COMMENT ON COLUMN optimizations.id IS 'UUIDv7; the caller may supply it, to create safely twice.';
COMMENT ON COLUMN optimizations.recommendation_id IS 'What is carried out.';
COMMENT ON COLUMN optimizations.agent_id IS 'The agent that carries it out.';
COMMENT ON COLUMN optimizations.workflow_execution_id IS
'The run that carries it out; NULL where none does, or that one was deleted.';
COMMENT ON COLUMN optimizations.status IS 'State; see the type.';
COMMENT ON COLUMN optimizations.progress IS 'How far it is, 0 to 100.';
COMMENT ON COLUMN optimizations.started_at IS 'When it was started; NULL where it never was.';
COMMENT ON COLUMN optimizations.completed_at IS 'When it ended, well or badly; NULL before.';
COMMENT ON COLUMN optimizations.rolled_back_at IS 'When it was undone; NULL where it was not.';
COMMENT ON COLUMN optimizations.actual_savings IS
'What it really saves, in USD a month (negative: it costs more); NULL where not yet known.';
COMMENT ON COLUMN optimizations.actual_improvement IS
'What it really improved, as a multiplier; NULL where not yet known.';
COMMENT ON COLUMN optimizations.error IS 'Why it failed; kept when it is rolled back.';
COMMENT ON COLUMN optimizations.result IS 'Object with what was done.';
COMMENT ON COLUMN optimizations.created_at IS 'When the row was written.';
COMMENT ON COLUMN optimizations.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX optimizations_pkey IS
'Serves get_optimization, list_optimizations and every transition.';

CREATE INDEX optimizations_customer_id_recommendation_id_idx
ON optimizations (customer_id, recommendation_id);
COMMENT ON INDEX optimizations_customer_id_recommendation_id_idx IS
'Serves list_recommendation_optimizations, get_recommendation_trace, list_savings, and deleting '
'a recommendation.';

CREATE INDEX optimizations_agent_id_customer_id_id_idx
ON optimizations (agent_id, customer_id, id);
COMMENT ON INDEX optimizations_agent_id_customer_id_id_idx IS
'Serves list_optimizations_by_agent, and deleting an agent.';

CREATE INDEX optimizations_customer_id_workflow_execution_id_idx
ON optimizations (customer_id, workflow_execution_id)
WHERE workflow_execution_id IS NOT NULL;
COMMENT ON INDEX optimizations_customer_id_workflow_execution_id_idx IS
'Serves list_workflow_optimizations, and deleting a run.';

CREATE TRIGGER optimizations_enforce_transitions
BEFORE UPDATE ON optimizations
FOR EACH ROW
EXECUTE FUNCTION enforce_transitions(
    'queued -> executing | failed',
    'executing -> completed | failed',
    'completed -> rolled_back',
    'failed -> rolled_back'
);
COMMENT ON TRIGGER optimizations_enforce_transitions ON optimizations IS
'The state machine; also keeps updated_at.';

CREATE FUNCTION record_optimization_event() RETURNS trigger
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
        'optimization.' || NEW.status,
        CASE NEW.status
            WHEN 'failed' THEN 'error'
            WHEN 'rolled_back' THEN 'warning'
            ELSE 'info'
        END::event_severity,
        'optimization',
        NEW.id,
        CASE NEW.status
            WHEN 'failed'
                THEN jsonb_build_object('from', OLD.status, 'to', NEW.status, 'error', NEW.error)
            ELSE jsonb_build_object('from', OLD.status, 'to', NEW.status)
        END
    );
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION record_optimization_event() IS
'Trigger: writes creation and status changes to the audit log.';

CREATE TRIGGER optimizations_record_creation
AFTER INSERT ON optimizations
FOR EACH ROW
EXECUTE FUNCTION record_optimization_event();
COMMENT ON TRIGGER optimizations_record_creation ON optimizations IS 'The audit log.';

CREATE TRIGGER optimizations_record_event
AFTER UPDATE ON optimizations
FOR EACH ROW WHEN (OLD.status != NEW.status)
EXECUTE FUNCTION record_optimization_event();
COMMENT ON TRIGGER optimizations_record_event ON optimizations IS 'The audit log.';

DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION record_optimization_event() SET search_path = %I, pg_temp', current_schema()
    );
END
$do$;
