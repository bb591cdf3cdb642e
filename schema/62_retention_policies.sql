-- How long what is over is kept. What no policy speaks of is kept for ever.
--
-- A policy on workflow_executions may be for one customer, one type, both or neither; of those that
-- fit a run, the one of its customer and type counts, else that of its customer, else that of its
-- type, else the general one. Events and metrics go by whole months, for all customers at once.
--
-- Written by operators; a handful of rows. Read by housekeeping (optiinfra-db prune, maintain).

CREATE TABLE retention_policies (
    id uuid NOT NULL DEFAULT uuidv7(),
    table_name text NOT NULL,
    customer_id uuid,
    workflow_type workflow_type,
    keep_for interval NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT retention_policies_pkey PRIMARY KEY (id),
    CONSTRAINT retention_policies_customer_id_table_name_workflow_type_key
    UNIQUE NULLS NOT DISTINCT (customer_id, table_name, workflow_type),
    CONSTRAINT retention_policies_customer_id_fkey FOREIGN KEY (customer_id)
    REFERENCES customers (id) ON DELETE CASCADE,
    CONSTRAINT retention_policies_table_name_check CHECK (
        table_name IN ('workflow_executions', 'events', 'agent_metrics')
    ),
    CONSTRAINT retention_policies_customer_id_check CHECK (
        table_name = 'workflow_executions' OR (customer_id IS NULL AND workflow_type IS NULL)
    ),
    CONSTRAINT retention_policies_keep_for_check CHECK (
        keep_for > interval '0' AND keep_for <= interval '100 years'
    )
);
COMMENT ON TABLE retention_policies IS
'How long what is over is kept; what no policy speaks of is kept for ever.';
COMMENT ON COLUMN retention_policies.id IS 'UUIDv7.';
COMMENT ON COLUMN retention_policies.table_name IS
'Of what: workflow_executions (with their steps and artifacts), events or agent_metrics.';
COMMENT ON COLUMN retention_policies.customer_id IS 'Of this customer; NULL for all.';
COMMENT ON COLUMN retention_policies.workflow_type IS 'Of this type; NULL for all.';
COMMENT ON COLUMN retention_policies.keep_for IS
'How long after it is over; of events and metrics, after the end of their month.';
COMMENT ON COLUMN retention_policies.created_at IS 'When the row was written.';
COMMENT ON COLUMN retention_policies.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX retention_policies_pkey IS 'Serves delete_retention_policy.';
COMMENT ON INDEX retention_policies_customer_id_table_name_workflow_type_key IS
'One policy for each. Serves set_retention_policy, and deleting a customer.';

CREATE TRIGGER retention_policies_set_updated_at
BEFORE UPDATE ON retention_policies
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER retention_policies_set_updated_at ON retention_policies IS 'Keeps updated_at.';
