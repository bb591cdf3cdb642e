-- An artifact is something that a run left behind: a report, a chart, a config. The row says what
-- it is and where it lies; the content lies in object storage or on disk, and its SHA-256 here
-- proves that it is still the same.
--
-- Written by the agent that executes the run, after the content. A few rows a run; never updated
-- but for metadata. workflow_step_id, where given, is a step of the same run.

CREATE TYPE artifact_type AS ENUM (
    'report', 'config', 'log', 'recommendation', 'chart', 'metrics', 'alert', 'diagnostic'
);
COMMENT ON TYPE artifact_type IS 'What an artifact is.';

CREATE TABLE workflow_artifacts (
    customer_id uuid NOT NULL,
    workflow_execution_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT uuidv7(),
    workflow_step_id uuid,
    artifact_type artifact_type NOT NULL,
    artifact_name text NOT NULL,
    artifact_path text NOT NULL,
    artifact_size_bytes bigint NOT NULL,
    content_type text NOT NULL,
    sha256 bytea NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT workflow_artifacts_pkey PRIMARY KEY (customer_id, workflow_execution_id, id),
    CONSTRAINT workflow_artifacts_artifact_path_key
    UNIQUE (customer_id, workflow_execution_id, artifact_path),
    CONSTRAINT workflow_artifacts_workflow_execution_id_fkey
    FOREIGN KEY (customer_id, workflow_execution_id)
    REFERENCES workflow_executions (customer_id, id) ON DELETE CASCADE,
    CONSTRAINT workflow_artifacts_workflow_step_id_fkey
    FOREIGN KEY (customer_id, workflow_execution_id, workflow_step_id)
    REFERENCES workflow_steps (customer_id, workflow_execution_id, id) ON DELETE CASCADE,
    CONSTRAINT workflow_artifacts_artifact_name_check CHECK (
        char_length(artifact_name) BETWEEN 1 AND 255
    ),
    CONSTRAINT workflow_artifacts_artifact_path_check CHECK (
        char_length(artifact_path) BETWEEN 1 AND 1024
    ),
    CONSTRAINT workflow_artifacts_artifact_size_bytes_check CHECK (artifact_size_bytes >= 0),
    CONSTRAINT workflow_artifacts_content_type_check CHECK (
        char_length(content_type) BETWEEN 1 AND 255
    ),
    CONSTRAINT workflow_artifacts_sha256_check CHECK (octet_length(sha256) = 32),
    CONSTRAINT workflow_artifacts_metadata_check CHECK (jsonb_typeof(metadata) = 'object')
);
COMMENT ON TABLE workflow_artifacts IS
'What runs left behind: where it lies, how large it is, and its digest.';
COMMENT ON COLUMN workflow_artifacts.customer_id IS 'Tenant.';
COMMENT ON COLUMN workflow_artifacts.workflow_execution_id IS 'The run that left it.';
COMMENT ON COLUMN workflow_artifacts.id IS 'UUIDv7; the caller may supply it.';
COMMENT ON COLUMN workflow_artifacts.workflow_step_id IS
'The step of the same run that left it; NULL for the run''s own.';
COMMENT ON COLUMN workflow_artifacts.artifact_type IS 'What it is.';
COMMENT ON COLUMN workflow_artifacts.artifact_name IS 'Display name, 1 to 255 characters.';
COMMENT ON COLUMN workflow_artifacts.artifact_path IS
'Where the content lies: s3://... or a file path, up to 1,024 characters; unique in the run.';
COMMENT ON COLUMN workflow_artifacts.artifact_size_bytes IS 'Size of the content, in bytes.';
COMMENT ON COLUMN workflow_artifacts.content_type IS
'Media type of the content: application/pdf, ...';
COMMENT ON COLUMN workflow_artifacts.sha256 IS 'SHA-256 of the content, 32 bytes.';
COMMENT ON COLUMN workflow_artifacts.metadata IS 'Free-form object: pages, dimensions, format, ...';
COMMENT ON COLUMN workflow_artifacts.created_at IS 'When the row was written.';
COMMENT ON COLUMN workflow_artifacts.updated_at IS 'When the row last changed; kept by a trigger.';

COMMENT ON INDEX workflow_artifacts_pkey IS
'Serves get_workflow_artifact, list_workflow_artifacts and get_workflow_detail.';
COMMENT ON INDEX workflow_artifacts_artifact_path_key IS
'One row a path in a run. Serves register_workflow_artifact, advance_workflow_step and '
'finish_workflow_execution.';

CREATE INDEX workflow_artifacts_workflow_step_id_idx
ON workflow_artifacts (customer_id, workflow_execution_id, workflow_step_id)
WHERE workflow_step_id IS NOT NULL;
COMMENT ON INDEX workflow_artifacts_workflow_step_id_idx IS
'Serves deleting a step, and list_step_artifacts where a run has many artifacts.';

CREATE INDEX workflow_artifacts_customer_id_artifact_type_id_idx
ON workflow_artifacts (customer_id, artifact_type, id);
COMMENT ON INDEX workflow_artifacts_customer_id_artifact_type_id_idx IS
'Serves list_artifacts_by_type.';

-- Without it the planner takes a run for one row, and any index that begins with its key for the
-- primary key.
CREATE STATISTICS workflow_artifacts_customer_id_workflow_execution_id_stat (DEPENDENCIES)
ON customer_id, workflow_execution_id FROM workflow_artifacts;
COMMENT ON STATISTICS workflow_artifacts_customer_id_workflow_execution_id_stat IS
'A run is of one customer.';

CREATE TRIGGER workflow_artifacts_set_updated_at
BEFORE UPDATE ON workflow_artifacts
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER workflow_artifacts_set_updated_at ON workflow_artifacts IS 'Keeps updated_at.';
