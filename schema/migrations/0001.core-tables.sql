-- Customers, agents, recommendations with their approvals and optimizations, and the audit log.

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

DO $do$
BEGIN
    IF to_regprocedure('pg_catalog.uuidv7()') IS NULL THEN
        -- RFC 9562: 48 bits of milliseconds, version, 12 bits of the rest of the millisecond,
        -- variant, 62 random bits (those of gen_random_uuid, whose variant bits we keep).
        CREATE FUNCTION uuidv7() RETURNS uuid
        LANGUAGE sql
        VOLATILE
        PARALLEL SAFE
        AS $$
            SELECT encode(
                overlay(
                    pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
                    PLACING substring(pg_catalog.int8send(t.microseconds / 1000) FROM 3)
                        || substring(
                            pg_catalog.int4send(
                                28672 + ((t.microseconds % 1000) * 4096 / 1000)::int
                            ) FROM 3
                        )
                    FROM 1
                ),
                'hex'
            )::uuid
            FROM (
                SELECT (extract(EPOCH FROM pg_catalog.clock_timestamp()) * 1000000)::bigint
                    AS microseconds
            ) AS t
        $$;
        COMMENT ON FUNCTION uuidv7() IS
            'Time-ordered UUID (RFC 9562 version 7). Stands in for the built-in of PostgreSQL 18.';
    END IF;
END
$do$;

CREATE FUNCTION set_updated_at() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.updated_at := pg_catalog.now();
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION set_updated_at() IS
'Trigger: keeps updated_at. Attached WHEN (OLD.* IS DISTINCT FROM NEW.*), so that an update '
'that changes nothing (creating a row again) leaves no trace.';

CREATE TYPE customer_plan AS ENUM ('free', 'startup', 'enterprise');
COMMENT ON TYPE customer_plan IS 'What a customer pays for.';

CREATE TYPE customer_status AS ENUM ('active', 'suspended', 'churned');
COMMENT ON TYPE customer_status IS 'Whether the platform works for a customer.';

CREATE TABLE customers (
    id uuid NOT NULL DEFAULT uuidv7(),
    name text NOT NULL,
    email text NOT NULL,
    api_key_hash bytea NOT NULL,
    plan customer_plan NOT NULL DEFAULT 'free',
    status customer_status NOT NULL DEFAULT 'active',
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT customers_pkey PRIMARY KEY (id),
    CONSTRAINT customers_api_key_hash_key UNIQUE (api_key_hash),
    CONSTRAINT customers_name_check CHECK (char_length(name) BETWEEN 1 AND 255),
    CONSTRAINT customers_email_check CHECK (
        char_length(email) <= 254
        AND email ~ '^[^@\s]+@[^@\s]+$'
    ),
    CONSTRAINT customers_api_key_hash_check CHECK (octet_length(api_key_hash) = 32),
    CONSTRAINT customers_metadata_check CHECK (jsonb_typeof(metadata) = 'object')
);
COMMENT ON TABLE customers IS
'Tenants of the platform. Everything that a customer owns goes with its row.';
COMMENT ON COLUMN customers.id IS 'UUIDv7; the caller may supply it, to create safely twice.';
COMMENT ON COLUMN customers.name IS 'Display name, 1 to 255 characters.';
COMMENT ON COLUMN customers.email IS 'Contact address; unique ignoring case.';
COMMENT ON COLUMN customers.api_key_hash IS
'SHA-256 of the API key, 32 bytes; the key itself is never stored.';
COMMENT ON COLUMN customers.plan IS 'What the customer pays for.';
COMMENT ON COLUMN customers.status IS 'Whether the platform works for this customer.';
COMMENT ON COLUMN customers.metadata IS 'Free-form object: region, industry, contract, ...';
COMMENT ON COLUMN customers.created_at IS 'When the row was written.';
COMMENT ON COLUMN customers.updated_at IS 'When the row last changed; kept by a trigger.';

CREATE UNIQUE INDEX customers_email_key ON customers (lower(email));
COMMENT ON INDEX customers_email_key IS
'One customer an address, ignoring case. Serves get_customer_by_email.';
COMMENT ON INDEX customers_pkey IS 'Serves get_customer, list_customers and every foreign key.';
COMMENT ON INDEX customers_api_key_hash_key IS
'One customer a key. Serves get_customer_by_api_key_hash.';

CREATE TRIGGER customers_set_updated_at
BEFORE UPDATE ON customers
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER customers_set_updated_at ON customers IS 'Keeps updated_at.';

CREATE TYPE agent_type AS ENUM (
    'orchestrator', 'cost', 'performance', 'resource', 'application'
);
COMMENT ON TYPE agent_type IS 'What an agent optimises; the orchestrator directs the others.';

CREATE TYPE agent_status AS ENUM ('starting', 'healthy', 'degraded', 'failed', 'stopped');
COMMENT ON TYPE agent_status IS 'Health of an agent, as it last reported it.';

CREATE TABLE agents (
    id uuid NOT NULL DEFAULT uuidv7(),
    type agent_type NOT NULL,
    name text NOT NULL,
    version text NOT NULL,
    status agent_status NOT NULL DEFAULT 'starting',
    last_heartbeat timestamptz,
    endpoint text,
    capabilities jsonb NOT NULL DEFAULT '[]',
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agents_pkey PRIMARY KEY (id),
    CONSTRAINT agents_type_name_key UNIQUE (type, name),
    CONSTRAINT agents_name_check CHECK (char_length(name) BETWEEN 1 AND 255),
    CONSTRAINT agents_version_check CHECK (char_length(version) BETWEEN 1 AND 64),
    CONSTRAINT agents_endpoint_check CHECK (char_length(endpoint) BETWEEN 1 AND 2048),
    CONSTRAINT agents_capabilities_check CHECK (jsonb_typeof(capabilities) = 'array'),
    CONSTRAINT agents_metadata_check CHECK (jsonb_typeof(metadata) = 'object')
) WITH (
    -- A heartbeat every few seconds on few rows: room for the new version on the same page,
    -- and vacuum once there is a page's worth to clean, not after each few dozen updates.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);
COMMENT ON TABLE agents IS 'Running services of the platform, one row an agent type and name.';
COMMENT ON COLUMN agents.id IS 'UUIDv7; the caller may supply it.';
COMMENT ON COLUMN agents.type IS 'What the agent optimises.';
COMMENT ON COLUMN agents.name IS
'Name of the instance, 1 to 255 characters; unique within its type.';
COMMENT ON COLUMN agents.version IS 'Version of the software that runs.';
COMMENT ON COLUMN agents.status IS 'Health, as last reported.';
COMMENT ON COLUMN agents.last_heartbeat IS
'When the agent last reported; NULL before its first heartbeat.';
COMMENT ON COLUMN agents.endpoint IS
'URL at which the agent is reached; NULL where it only calls out.';
COMMENT ON COLUMN agents.capabilities IS
'List of what the agent announces that it can do; what is configured is in '
'agent_capabilities.';
COMMENT ON COLUMN agents.metadata IS 'Free-form object: host, region, build, ...';
COMMENT ON COLUMN agents.created_at IS 'When the row was written.';
COMMENT ON COLUMN agents.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX agents_pkey IS
'Serves get_agent, list_agents, record_agent_heartbeat and every foreign key.';
COMMENT ON INDEX agents_type_name_key IS
'One row an agent. Serves upsert_agent and list_agents_by_type.';

CREATE TRIGGER agents_set_updated_at
BEFORE UPDATE ON agents
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER agents_set_updated_at ON agents IS 'Keeps updated_at.';

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

CREATE TRIGGER recommendations_set_updated_at
BEFORE UPDATE ON recommendations
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER recommendations_set_updated_at ON recommendations IS 'Keeps updated_at.';

CREATE TYPE approval_status AS ENUM ('pending', 'approved', 'rejected');
COMMENT ON TYPE approval_status IS 'State of an approval: pending -> approved | rejected.';

CREATE TABLE approvals (
    customer_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT uuidv7(),
    recommendation_id uuid NOT NULL,
    status approval_status NOT NULL DEFAULT 'pending',
    approved_by text,
    comment text NOT NULL DEFAULT '',
    expires_at timestamptz,
    decided_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT approvals_pkey PRIMARY KEY (customer_id, id),
    CONSTRAINT approvals_recommendation_id_fkey FOREIGN KEY (customer_id, recommendation_id)
    REFERENCES recommendations (customer_id, id) ON DELETE CASCADE,
    CONSTRAINT approvals_approved_by_check CHECK (
        char_length(approved_by) BETWEEN 1 AND 255
        AND (status = 'pending') = (approved_by IS NULL)
    ),
    CONSTRAINT approvals_decided_at_check CHECK ((status = 'pending') = (decided_at IS NULL))
);
COMMENT ON TABLE approvals IS
'Questions to customers whether a recommendation may be carried out, and their answers.';
COMMENT ON COLUMN approvals.customer_id IS 'Tenant.';
COMMENT ON COLUMN approvals.id IS 'UUIDv7; the caller may supply it, to create safely twice.';
COMMENT ON COLUMN approvals.recommendation_id IS 'What is to be approved.';
COMMENT ON COLUMN approvals.status IS 'State; see the type.';
COMMENT ON COLUMN approvals.approved_by IS 'Who decided, for or against; NULL while pending.';
COMMENT ON COLUMN approvals.comment IS 'Why, in the words of who decided.';
COMMENT ON COLUMN approvals.expires_at IS 'From when it can no longer be decided; NULL for never.';
COMMENT ON COLUMN approvals.decided_at IS 'When it was decided; NULL while pending.';
COMMENT ON COLUMN approvals.created_at IS 'When the row was written.';
COMMENT ON COLUMN approvals.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX approvals_pkey IS 'Serves get_approval, list_approvals and decide_approval.';

CREATE INDEX approvals_customer_id_recommendation_id_idx
ON approvals (customer_id, recommendation_id);
COMMENT ON INDEX approvals_customer_id_recommendation_id_idx IS
'Serves list_recommendation_approvals, and deleting a recommendation.';

CREATE UNIQUE INDEX approvals_recommendation_id_pending_key
ON approvals (customer_id, recommendation_id)
WHERE status = 'pending';
COMMENT ON INDEX approvals_recommendation_id_pending_key IS
'One open question a recommendation. Serves list_pending_approvals.';

CREATE TRIGGER approvals_set_updated_at
BEFORE UPDATE ON approvals
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER approvals_set_updated_at ON approvals IS 'Keeps updated_at.';

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
'Serves list_recommendation_optimizations, and deleting a recommendation.';

CREATE INDEX optimizations_agent_id_customer_id_id_idx
ON optimizations (agent_id, customer_id, id);
COMMENT ON INDEX optimizations_agent_id_customer_id_id_idx IS
'Serves list_optimizations_by_agent, and deleting an agent.';

CREATE INDEX optimizations_customer_id_workflow_execution_id_idx
ON optimizations (customer_id, workflow_execution_id)
WHERE workflow_execution_id IS NOT NULL;
COMMENT ON INDEX optimizations_customer_id_workflow_execution_id_idx IS
'Serves list_workflow_optimizations, and deleting a run.';

CREATE TRIGGER optimizations_set_updated_at
BEFORE UPDATE ON optimizations
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER optimizations_set_updated_at ON optimizations IS 'Keeps updated_at.';

CREATE TYPE event_severity AS ENUM ('info', 'warning', 'error', 'critical');
COMMENT ON TYPE event_severity IS 'How bad an event is, least first.';

CREATE TABLE events (
    customer_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    id uuid NOT NULL DEFAULT uuidv7(),
    agent_id uuid,
    event_type text NOT NULL,
    severity event_severity NOT NULL DEFAULT 'info',
    subject_type text,
    subject_id uuid,
    actor text NOT NULL DEFAULT coalesce(
        nullif(current_setting('optiinfra.actor', true), ''), session_user
    ),
    data jsonb NOT NULL DEFAULT '{}',
    xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT events_pkey PRIMARY KEY (customer_id, created_at, id),
    CONSTRAINT events_customer_id_fkey FOREIGN KEY (customer_id)
    REFERENCES customers (id) ON DELETE CASCADE,
    CONSTRAINT events_agent_id_fkey FOREIGN KEY (agent_id)
    REFERENCES agents (id) ON DELETE SET NULL,
    CONSTRAINT events_created_at_check CHECK (isfinite(created_at)),
    CONSTRAINT events_event_type_check CHECK (char_length(event_type) BETWEEN 1 AND 100),
    CONSTRAINT events_subject_id_check CHECK ((subject_type IS NULL) = (subject_id IS NULL)),
    CONSTRAINT events_subject_type_check CHECK (char_length(subject_type) BETWEEN 1 AND 100),
    CONSTRAINT events_actor_check CHECK (char_length(actor) BETWEEN 1 AND 255),
    CONSTRAINT events_data_check CHECK (jsonb_typeof(data) = 'object')
) PARTITION BY RANGE (created_at);
COMMENT ON TABLE events IS
'The audit log: what happened; append-only, partitioned by month of created_at.';
COMMENT ON COLUMN events.customer_id IS 'Tenant.';
COMMENT ON COLUMN events.created_at IS 'When it happened.';
COMMENT ON COLUMN events.id IS 'UUIDv7; the caller may supply it.';
COMMENT ON COLUMN events.agent_id IS
'The agent that it happened to or that caused it; NULL where none did, or that one was '
'deleted.';
COMMENT ON COLUMN events.event_type IS
'What happened, as <subject>.<what>, 1 to 100 characters: workflow_step.retrying, ...';
COMMENT ON COLUMN events.severity IS 'How bad it is.';
COMMENT ON COLUMN events.subject_type IS
'What it is about: workflow_execution, recommendation, ...; NULL for the customer as a whole.';
COMMENT ON COLUMN events.subject_id IS
'Id of what it is about; no foreign key, as it outlives its subject.';
COMMENT ON COLUMN events.actor IS
'Who did it: the setting optiinfra.actor, else the database user.';
COMMENT ON COLUMN events.data IS 'Object with what else is to be known.';
COMMENT ON COLUMN events.xact_id IS
'The transaction that wrote it; gives an order of reading that skips no late commit.';

COMMENT ON INDEX events_pkey IS 'Serves get_event and list_events.';

CREATE INDEX events_agent_id_created_at_id_idx
ON events (agent_id, created_at, id)
WHERE agent_id IS NOT NULL;
COMMENT ON INDEX events_agent_id_created_at_id_idx IS
'Serves list_events_by_agent, and deleting an agent.';

CREATE INDEX events_customer_id_subject_id_created_at_id_idx
ON events (customer_id, subject_id, created_at, id)
WHERE subject_id IS NOT NULL;
COMMENT ON INDEX events_customer_id_subject_id_created_at_id_idx IS
'Serves list_events_by_subject.';

CREATE TABLE events_default PARTITION OF events DEFAULT;
COMMENT ON TABLE events_default IS
'Events of months that have no partition; ensure_partitions() moves them to theirs.';
