-- name: create_recommendation :one
-- Propose a change to a customer. estimated_savings is in USD a month, estimated_improvement a
-- multiplier, confidence_score 0 to 1. With an id that is taken already, nothing is written and
-- the recommendation that is there is returned.
-- @returns exactly one
--
-- @plan recommendations_pkey, rows <= 0
INSERT INTO recommendations (
    customer_id,
    id,
    agent_id,
    workflow_execution_id,
    type,
    title,
    description,
    estimated_savings,
    estimated_improvement,
    confidence_score,
    priority,
    data
)
VALUES (
    @customer_id,
    coalesce(sqlc.narg('id')::uuid, uuidv7()),
    @agent_id,
    sqlc.narg('workflow_execution_id'),
    @type,
    @title,
    coalesce(sqlc.narg('description')::text, ''),
    sqlc.narg('estimated_savings'),
    sqlc.narg('estimated_improvement'),
    sqlc.narg('confidence_score'),
    coalesce(sqlc.narg('priority')::recommendation_priority, 'medium'),
    coalesce(sqlc.narg('data')::jsonb, '{}')
)
ON CONFLICT (customer_id, id) DO UPDATE SET id = excluded.id
RETURNING *;

-- name: get_recommendation :one
-- One recommendation.
--
-- @plan recommendations_pkey, rows <= 1
SELECT *
FROM recommendations
WHERE
    customer_id = @customer_id
    AND id = @id;

-- name: get_recommendation_trace :one
-- What came of a recommendation and where it came from: the agent that proposes it, its approvals
-- (oldest first), the run that produced it with its steps (in order) and artifacts (oldest first),
-- its optimizations (oldest first) with the runs that carry them out, and what it brought.
--
-- predicted_savings is what was estimated, realised_savings what its completed optimizations really
-- save, those that were rolled back not counted, and savings_difference the second less the first,
-- all in USD a month; savings_ratio is the second over the first (1 is as predicted). Each is None
-- where it is not known, the ratio also where nothing was to be saved.
-- @many approvals approvals
-- @many steps workflow_steps
-- @many artifacts workflow_artifacts
-- @many optimizations optimizations
-- @many optimization_runs workflow_executions
-- @nullable predicted_savings, realised_savings, savings_difference, savings_ratio
--
-- @plan recommendations_pkey, agents_pkey, approvals_customer_id_recommendation_id_idx,
--   workflow_executions_pkey, workflow_steps_step_order_key, workflow_artifacts_pkey,
--   optimizations_customer_id_recommendation_id_idx,
--   rows <= 2 + agents + approvals + steps + artifacts + 4 * optimizations
SELECT
    sqlc.embed(recommendations),
    sqlc.embed(agents),
    array(
        SELECT approval
        FROM (
            SELECT approvals.*
            FROM approvals
            WHERE
                approvals.customer_id = recommendations.customer_id
                AND approvals.recommendation_id = recommendations.id
            ORDER BY approvals.id
        ) AS approval
    ) AS approvals,
    sqlc.embed(workflow_executions),
    array(
        SELECT step
        FROM (
            SELECT workflow_steps.*
            FROM workflow_steps
            WHERE
                workflow_steps.customer_id = recommendations.customer_id
                AND workflow_steps.workflow_execution_id = recommendations.workflow_execution_id
            ORDER BY workflow_steps.step_order
        ) AS step
    ) AS steps,
    array(
        SELECT artifact
        FROM (
            SELECT workflow_artifacts.*
            FROM workflow_artifacts
            WHERE
                workflow_artifacts.customer_id = recommendations.customer_id
                AND workflow_artifacts.workflow_execution_id
                = recommendations.workflow_execution_id
            ORDER BY workflow_artifacts.id
        ) AS artifact
    ) AS artifacts,
    array(
        SELECT optimization
        FROM (
            SELECT optimizations.*
            FROM optimizations
            WHERE
                optimizations.customer_id = recommendations.customer_id
                AND optimizations.recommendation_id = recommendations.id
            ORDER BY optimizations.id
        ) AS optimization
    ) AS optimizations,
    array(
        SELECT run
        FROM (
            SELECT workflow_executions.*
            FROM workflow_executions
            WHERE
                workflow_executions.customer_id = recommendations.customer_id
                AND workflow_executions.id IN (
                    SELECT optimizations.workflow_execution_id
                    FROM optimizations
                    WHERE
                        optimizations.customer_id = recommendations.customer_id
                        AND optimizations.recommendation_id = recommendations.id
                )
            ORDER BY workflow_executions.id
        ) AS run
    ) AS optimization_runs,
    recommendations.estimated_savings AS predicted_savings,
    realised.savings AS realised_savings,
    (realised.savings - recommendations.estimated_savings)::numeric AS savings_difference,
    round(realised.savings / nullif(recommendations.estimated_savings, 0), 2) AS savings_ratio
FROM recommendations
INNER JOIN agents ON recommendations.agent_id = agents.id
LEFT JOIN workflow_executions
    ON
        recommendations.customer_id = workflow_executions.customer_id
        AND recommendations.workflow_execution_id = workflow_executions.id
CROSS JOIN
    LATERAL (
        SELECT sum(optimizations.actual_savings)::numeric AS savings
        FROM optimizations
        WHERE
            optimizations.customer_id = recommendations.customer_id
            AND optimizations.recommendation_id = recommendations.id
            AND optimizations.status = 'completed'
    ) AS realised
WHERE
    recommendations.customer_id = @customer_id
    AND recommendations.id = @id;

-- name: list_recommendations :many
-- Recommendations to a customer, newest first, up to max_rows; the next page starts before the
-- last id of this one.
--
-- @plan recommendations_pkey, rows <= max_rows
SELECT *
FROM recommendations
WHERE
    customer_id = @customer_id
    AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_recommendations_by_agent :many
-- Recommendations of one agent to a customer, newest first, paged like list_recommendations.
--
-- @plan recommendations_agent_id_customer_id_id_idx, rows <= 2 * max_rows
SELECT *
FROM recommendations
WHERE
    customer_id = @customer_id
    AND agent_id = @agent_id
    AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_recommendations_by_status :many
-- Recommendations to a customer in one state, newest first, paged like list_recommendations.
--
-- @plan recommendations_customer_id_status_id_idx, rows <= 2 * max_rows
SELECT *
FROM recommendations
WHERE
    customer_id = @customer_id
    AND status = @status
    AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_recommendations_by_type :many
-- Recommendations to a customer of one type, newest first, paged like list_recommendations.
--
-- @plan recommendations_customer_id_type_id_idx, rows <= 2 * max_rows
SELECT *
FROM recommendations
WHERE
    customer_id = @customer_id
    AND type = @type
    AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_recommendations_by_priority :many
-- Recommendations to a customer of one priority, newest first, paged like list_recommendations.
--
-- @plan recommendations_customer_id_priority_id_idx, rows <= 2 * max_rows
SELECT *
FROM recommendations
WHERE
    customer_id = @customer_id
    AND priority = @priority
    AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_recommendations_by_savings :many
-- Recommendations to a customer, biggest estimated savings first, the newest first among equals, up
-- to max_rows; the next page starts before the last estimated_savings and id of this one. Those
-- without an estimate are left out, and those under min_savings (USD a month), where it is given.
--
-- @plan recommendations_customer_id_estimated_savings_id_idx, rows <= 2 * max_rows
SELECT *
FROM recommendations
WHERE
    customer_id = @customer_id
    AND estimated_savings >= greatest(sqlc.narg('min_savings')::numeric, 0)
    AND (estimated_savings, id) < (
        least(sqlc.narg('before_savings')::numeric, 'Infinity'),
        least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    )
ORDER BY estimated_savings DESC, id DESC
LIMIT @max_rows;

-- name: list_open_recommendations :many
-- Recommendations to a customer that are not over (pending, approved or executing), newest first,
-- paged like list_recommendations. status, type, priority, min_savings (USD a month) and agent_id
-- each narrow it down, alone or together; with min_savings those without an estimate are left out.
-- @required customer_id, max_rows
--
-- @plan recommendations_customer_id_status_id_idx, rows <= open_recommendations
WITH open AS MATERIALIZED (
    -- By itself, or the planner may choose an index for what narrows it down, or for the order.
    SELECT *
    FROM recommendations
    WHERE
        customer_id = @customer_id
        AND status IN ('pending', 'approved', 'executing')
        AND id < least(sqlc.narg('before_id')::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
)

SELECT *
FROM open
WHERE
    status = coalesce(sqlc.narg('status')::recommendation_status, status)
    AND type = coalesce(sqlc.narg('type')::text, type)
    AND priority = coalesce(sqlc.narg('priority')::recommendation_priority, priority)
    AND agent_id = coalesce(sqlc.narg('agent_id')::uuid, agent_id)
    AND (
        sqlc.narg('min_savings')::numeric IS NULL
        OR estimated_savings >= sqlc.narg('min_savings')::numeric
    )
ORDER BY id DESC
LIMIT @max_rows;

-- name: list_open_recommendations_by_savings :many
-- Recommendations to a customer that are not over, narrowed down like list_open_recommendations,
-- biggest estimated savings first, the newest first among equals, those without an estimate last,
-- up to max_rows. The next page starts before the last estimated_savings, None included, and id of
-- this one.
-- @required customer_id, max_rows
--
-- @plan recommendations_customer_id_status_id_idx, rows <= open_recommendations
WITH open AS MATERIALIZED (
    -- By itself, or the planner may choose an index for what narrows it down, or for the order.
    SELECT *
    FROM recommendations
    WHERE
        customer_id = @customer_id
        AND status IN ('pending', 'approved', 'executing')
)

SELECT *
FROM open
WHERE
    status = coalesce(sqlc.narg('status')::recommendation_status, status)
    AND type = coalesce(sqlc.narg('type')::text, type)
    AND priority = coalesce(sqlc.narg('priority')::recommendation_priority, priority)
    AND agent_id = coalesce(sqlc.narg('agent_id')::uuid, agent_id)
    AND (
        sqlc.narg('min_savings')::numeric IS NULL
        OR estimated_savings >= sqlc.narg('min_savings')::numeric
    )
    -- Estimates are 0 or more: -1 stands for none.
    AND (
        sqlc.narg('before_id')::uuid IS NULL
        OR (coalesce(estimated_savings, -1), id)
        < (coalesce(sqlc.narg('before_savings')::numeric, -1), sqlc.narg('before_id')::uuid)
    )
ORDER BY estimated_savings DESC NULLS LAST, id DESC
LIMIT @max_rows;

-- name: list_recent_recommendations :many
-- The newest recommendations with customer and agent, up to max_rows, of one customer where
-- customer_id is given, else for operators: it spans customers. Of each customer it reads max_rows.
-- @row RecentRecommendation
-- @required max_rows
--
-- @plan customers_pkey, recommendations_pkey, agents_pkey,
--   rows <= customers + agents + customers * max_rows + 15 * max_rows
WITH newest AS (
    SELECT
        of_customer.customer_id,
        of_customer.id,
        customers.name AS customer_name
    FROM customers
    CROSS JOIN
        LATERAL (
            SELECT
                recommendations.customer_id,
                recommendations.id
            FROM recommendations
            WHERE
                recommendations.customer_id = customers.id
            ORDER BY recommendations.id DESC
            LIMIT @max_rows
        ) AS of_customer
    WHERE customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
    ORDER BY of_customer.id DESC, of_customer.customer_id DESC
    LIMIT @max_rows
)

SELECT
    sqlc.embed(recommendations),
    newest.customer_name,
    agents.name AS agent_name
FROM newest
INNER JOIN recommendations
    ON
        newest.customer_id = recommendations.customer_id
        AND newest.id = recommendations.id
INNER JOIN agents ON recommendations.agent_id = agents.id
ORDER BY newest.id DESC, newest.customer_id DESC;

-- name: list_recent_recommendations_by_status :many
-- The newest recommendations in a state; otherwise as list_recent_recommendations.
-- @row RecentRecommendation
-- @required status, max_rows
--
-- @plan customers_pkey, recommendations_pkey, recommendations_customer_id_status_id_idx,
--   agents_pkey, rows <= customers + agents + customers * max_rows + 15 * max_rows
WITH newest AS (
    SELECT
        of_customer.customer_id,
        of_customer.id,
        customers.name AS customer_name
    FROM customers
    CROSS JOIN
        LATERAL (
            SELECT
                recommendations.customer_id,
                recommendations.id
            FROM recommendations
            WHERE
                recommendations.customer_id = customers.id
                AND recommendations.status = @status
            ORDER BY recommendations.id DESC
            LIMIT @max_rows
        ) AS of_customer
    WHERE customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
    ORDER BY of_customer.id DESC, of_customer.customer_id DESC
    LIMIT @max_rows
)

SELECT
    sqlc.embed(recommendations),
    newest.customer_name,
    agents.name AS agent_name
FROM newest
INNER JOIN recommendations
    ON
        newest.customer_id = recommendations.customer_id
        AND newest.id = recommendations.id
INNER JOIN agents ON recommendations.agent_id = agents.id
ORDER BY newest.id DESC, newest.customer_id DESC;

-- name: list_recommendations_by_id_range :many
-- The recommendations whose ids are from first_id to last_id, both included, of one customer where
-- customer_id is given, else for operators: it spans customers. Newest first, up to max_rows: what
-- an abbreviated id may stand for.
-- @required first_id, last_id, max_rows
--
-- @plan customers_pkey, recommendations_pkey, rows <= customers + customers * max_rows
SELECT of_customer.*
FROM customers
CROSS JOIN
    LATERAL (
        SELECT recommendations.*
        FROM recommendations
        WHERE
            recommendations.customer_id = customers.id
            AND recommendations.id BETWEEN @first_id AND @last_id
        ORDER BY recommendations.id DESC
        LIMIT @max_rows
    ) AS of_customer
WHERE customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
ORDER BY of_customer.id DESC, of_customer.customer_id DESC
LIMIT @max_rows;

-- name: list_workflow_recommendations :many
-- All recommendations that one run produced, oldest first.
--
-- @plan recommendations_customer_id_workflow_execution_id_idx, rows <= recommendations
SELECT *
FROM recommendations
WHERE
    customer_id = @customer_id
    AND workflow_execution_id = @workflow_execution_id::uuid
ORDER BY id;

-- name: list_savings :many
-- What came of the recommendations made in [since, until), by the month (UTC, its first day) in
-- which they were made, the newest first, the customer, and the agent that made them. Of one
-- customer where customer_id is given, else for operators: it spans customers.
--
-- Of the recommendations, rejected, approved (and not rejected since), completed and rolled_back
-- say how many are so by now. predicted_savings is what all of them were to save, approved_savings
-- what those approved were to, and realised_savings what their completed optimizations really save,
-- those that were rolled back not counted; in USD a month, 0 for what is not known. It is a cohort:
-- what becomes of a recommendation changes the row of the month in which it was made.
--
-- @plan customers_pkey, recommendations_customer_id_created_at_idx, agents_pkey,
--   optimizations_customer_id_recommendation_id_idx,
--   rows <= customers + agents + (2 + optimizations) * window_recommendations
SELECT
    made.month,
    customers.id AS customer_id,
    customers.name AS customer_name,
    made.agent_id,
    agents.name AS agent_name,
    made.recommendations,
    made.rejected,
    made.approved,
    made.completed,
    made.rolled_back,
    made.predicted_savings,
    made.approved_savings,
    made.realised_savings
FROM customers
CROSS JOIN
    LATERAL (
        SELECT
            date_trunc('month', recommendations.created_at AT TIME ZONE 'UTC')::date AS month,
            recommendations.agent_id,
            count(*) AS recommendations,
            count(*) FILTER (WHERE recommendations.status = 'rejected') AS rejected,
            count(*) FILTER (
                WHERE recommendations.status NOT IN ('pending', 'rejected')
            ) AS approved,
            count(*) FILTER (WHERE recommendations.status = 'completed') AS completed,
            count(*) FILTER (WHERE recommendations.status = 'rolled_back') AS rolled_back,
            coalesce(sum(recommendations.estimated_savings), 0)::numeric AS predicted_savings,
            coalesce(
                sum(recommendations.estimated_savings) FILTER (
                    WHERE recommendations.status NOT IN ('pending', 'rejected')
                ),
                0
            )::numeric AS approved_savings,
            coalesce(
                sum((
                    SELECT sum(optimizations.actual_savings)
                    FROM optimizations
                    WHERE
                        optimizations.customer_id = recommendations.customer_id
                        AND optimizations.recommendation_id = recommendations.id
                        AND optimizations.status = 'completed'
                )),
                0
            )::numeric AS realised_savings
        FROM recommendations
        WHERE
            recommendations.customer_id = customers.id
            AND recommendations.created_at >= @since
            AND recommendations.created_at < @until
        GROUP BY month, recommendations.agent_id
    ) AS made
INNER JOIN agents ON made.agent_id = agents.id
WHERE customers.id = coalesce(sqlc.narg('customer_id')::uuid, customers.id)
ORDER BY
    made.month DESC,
    customers.name ASC,
    customers.id ASC,
    agents.name ASC,
    made.agent_id ASC;

-- name: approve_recommendation :one
-- Move a recommendation from pending to approved; None where it was not pending.
--
-- @plan recommendations_pkey, recommendations_customer_id_status_id_idx, rows <= 1
UPDATE recommendations
SET
    status = 'approved',
    approved_at = now()
WHERE
    customer_id = @customer_id
    AND id = @id
    AND status = 'pending'
RETURNING *;

-- name: reject_recommendation :one
-- Move a recommendation from pending or approved to rejected; None where it was neither.
--
-- @plan recommendations_pkey, recommendations_customer_id_status_id_idx, rows <= 1
UPDATE recommendations
SET status = 'rejected'
WHERE
    customer_id = @customer_id
    AND id = @id
    AND status IN ('pending', 'approved')
RETURNING *;

-- name: delete_recommendation :execrows
-- Delete a recommendation with its approvals and optimizations. Returns 1, or 0 where there was
-- none.
--
-- @plan recommendations_pkey, rows <= 1
DELETE FROM recommendations
WHERE
    customer_id = @customer_id
    AND id = @id;
