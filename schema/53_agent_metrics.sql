-- Numbers that agents measure about themselves and about what they watch. Append-only.
--
-- Written by agents, in batches (COPY). The fastest-growing table of all: millions of rows a day.
-- It is partitioned by month of recorded_at, so that old months are dropped and not deleted;
-- ensure_partitions() makes the months ahead, and the DEFAULT partition catches what no month
-- covers. The primary key is the only index: one metric of one agent, in order of time.

CREATE TYPE metric_type AS ENUM ('counter', 'gauge', 'histogram');
COMMENT ON TYPE metric_type IS
'How the values of a metric are to be read: a counter only grows (until its process '
'restarts), a gauge goes up and down, a histogram holds single observations.';

CREATE TABLE agent_metrics (
    agent_id uuid NOT NULL,
    metric_name text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    id uuid NOT NULL DEFAULT uuidv7(),
    metric_value double precision NOT NULL,
    metric_type metric_type NOT NULL DEFAULT 'gauge',
    tags jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_metrics_pkey PRIMARY KEY (agent_id, metric_name, recorded_at, id),
    CONSTRAINT agent_metrics_agent_id_fkey FOREIGN KEY (agent_id)
    REFERENCES agents (id) ON DELETE CASCADE,
    CONSTRAINT agent_metrics_metric_name_check CHECK (
        char_length(metric_name) BETWEEN 1 AND 255
    ),
    CONSTRAINT agent_metrics_recorded_at_check CHECK (isfinite(recorded_at)),
    -- Strict bounds keep NaN and the infinities out: one of them would spoil every average.
    CONSTRAINT agent_metrics_metric_value_check CHECK (
        metric_value > '-Infinity'
        AND metric_value < 'Infinity'
    ),
    CONSTRAINT agent_metrics_tags_check CHECK (jsonb_typeof(tags) = 'object')
) PARTITION BY RANGE (recorded_at);
COMMENT ON TABLE agent_metrics IS
'Numbers that agents measure; append-only, partitioned by month of recorded_at.';
COMMENT ON COLUMN agent_metrics.agent_id IS 'The agent that measured.';
COMMENT ON COLUMN agent_metrics.metric_name IS
'What was measured, unit included: gpu_utilization_percent, ..., 1 to 255 characters.';
COMMENT ON COLUMN agent_metrics.recorded_at IS 'When it was measured.';
COMMENT ON COLUMN agent_metrics.id IS 'UUIDv7.';
COMMENT ON COLUMN agent_metrics.metric_value IS 'The value; finite.';
COMMENT ON COLUMN agent_metrics.metric_type IS 'How the value is to be read.';
COMMENT ON COLUMN agent_metrics.tags IS 'Object of what tells series apart: region, model, ...';
COMMENT ON COLUMN agent_metrics.created_at IS 'When the row was written.';

COMMENT ON INDEX agent_metrics_pkey IS
'Serves every query on metrics: list_agent_metrics, list_agent_metric_buckets, '
'list_latest_agent_metrics, ..., and deleting an agent.';

CREATE TABLE agent_metrics_default PARTITION OF agent_metrics DEFAULT;
COMMENT ON TABLE agent_metrics_default IS
'Metrics of months that have no partition; ensure_partitions() moves them to theirs.';
