-- An approval is the question to a customer whether a recommendation may be carried out, and the
-- answer. At most one is open a recommendation; one that was decided is never decided again.
--
-- Written by the orchestrator (question) and by what customers use to answer.

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
'Serves list_recommendation_approvals, get_recommendation_trace, and deleting a recommendation.';

CREATE UNIQUE INDEX approvals_recommendation_id_pending_key
ON approvals (customer_id, recommendation_id)
WHERE status = 'pending';
COMMENT ON INDEX approvals_recommendation_id_pending_key IS
'One open question a recommendation. Serves list_pending_approvals and list_expired_approvals.';

CREATE TRIGGER approvals_enforce_transitions
BEFORE UPDATE ON approvals
FOR EACH ROW
EXECUTE FUNCTION enforce_transitions(
    'pending -> approved | rejected'
);
COMMENT ON TRIGGER approvals_enforce_transitions ON approvals IS
'The state machine; also keeps updated_at.';

CREATE FUNCTION record_approval_event() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO events (
        customer_id, created_at, event_type, severity, subject_type, subject_id, data
    )
    VALUES (
        NEW.customer_id,
        clock_timestamp(),
        'approval.' || NEW.status,
        'info',
        'approval',
        NEW.id,
        jsonb_build_object('from', OLD.status, 'to', NEW.status)
    );
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION record_approval_event() IS
'Trigger: writes creation and status changes to the audit log.';

CREATE TRIGGER approvals_record_creation
AFTER INSERT ON approvals
FOR EACH ROW
EXECUTE FUNCTION record_approval_event();
COMMENT ON TRIGGER approvals_record_creation ON approvals IS 'The audit log.';

CREATE TRIGGER approvals_record_event
AFTER UPDATE ON approvals
FOR EACH ROW WHEN (OLD.status != NEW.status)
EXECUTE FUNCTION record_approval_event();
COMMENT ON TRIGGER approvals_record_event ON approvals IS 'The audit log.';

DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION record_approval_event() SET search_path = %I, pg_temp', current_schema()
    );
END
$do$;
