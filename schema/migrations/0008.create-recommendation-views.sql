-- Recommendations for people in psql: where each stands and what it brought, and that by month.
-- depends: 0007.create-workflow-views

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE VIEW recommendation_trace
WITH (security_invoker = true) AS
SELECT
    customers.name AS customer,
    recommendations.title,
    recommendations.status,
    recommendations.priority,
    agents.name AS agent,
    recommendations.created_at,
    approval.status AS approval,
    approval.approved_by AS decided_by,
    approval.decided_at,
    date_trunc(
        'second',
        CASE
            WHEN approval.status != 'pending' THEN approval.decided_at
            WHEN recommendations.status = 'pending' THEN least(now(), approval.expires_at)
        END - approval.created_at
    ) AS waited_for,
    workflow_executions.workflow_type AS workflow,
    progress.steps_done,
    progress.steps_total,
    produced.artifacts,
    optimization.status AS optimization,
    optimization.progress,
    recommendations.estimated_savings AS predicted_savings,
    outcome.realised_savings,
    (outcome.realised_savings - recommendations.estimated_savings)::numeric AS savings_difference,
    recommendations.customer_id,
    recommendations.id AS recommendation_id,
    recommendations.agent_id,
    approval.id AS approval_id,
    recommendations.workflow_execution_id,
    optimization.id AS optimization_id
FROM recommendations
INNER JOIN customers ON recommendations.customer_id = customers.id
INNER JOIN agents ON recommendations.agent_id = agents.id
LEFT JOIN workflow_executions
    ON
        recommendations.customer_id = workflow_executions.customer_id
        AND recommendations.workflow_execution_id = workflow_executions.id
LEFT JOIN LATERAL (
    SELECT
        approvals.id,
        approvals.status,
        approvals.approved_by,
        approvals.decided_at,
        approvals.expires_at,
        approvals.created_at
    FROM approvals
    WHERE
        approvals.customer_id = recommendations.customer_id
        AND approvals.recommendation_id = recommendations.id
    ORDER BY approvals.id DESC
    LIMIT 1
) AS approval ON true
LEFT JOIN LATERAL (
    SELECT
        optimizations.id,
        optimizations.status,
        optimizations.progress
    FROM optimizations
    WHERE
        optimizations.customer_id = recommendations.customer_id
        AND optimizations.recommendation_id = recommendations.id
    ORDER BY optimizations.id DESC
    LIMIT 1
) AS optimization ON true
CROSS JOIN
    LATERAL (
        SELECT
            count(*) FILTER (
                WHERE
                workflow_steps.status IN ('completed', 'skipped')
                AND NOT workflow_steps.metadata ? 'closed_with_run'
            ) AS steps_done,
            count(*) AS steps_total
        FROM workflow_steps
        WHERE
            workflow_steps.customer_id = recommendations.customer_id
            AND workflow_steps.workflow_execution_id = recommendations.workflow_execution_id
    ) AS progress
CROSS JOIN
    LATERAL (
        SELECT count(*) AS artifacts
        FROM workflow_artifacts
        WHERE
            workflow_artifacts.customer_id = recommendations.customer_id
            AND workflow_artifacts.workflow_execution_id = recommendations.workflow_execution_id
    ) AS produced
CROSS JOIN
    LATERAL (
        SELECT sum(optimizations.actual_savings)::numeric AS realised_savings
        FROM optimizations
        WHERE
            optimizations.customer_id = recommendations.customer_id
            AND optimizations.recommendation_id = recommendations.id
            AND optimizations.status = 'completed'
    ) AS outcome;
COMMENT ON VIEW recommendation_trace IS
'Each recommendation with its latest approval, the run that produced it, its latest optimization '
'and what it brought. Ask with WHERE customer_id = ...; ORDER BY recommendation_id DESC is '
'newest first.';
COMMENT ON COLUMN recommendation_trace.customer IS 'Name of the customer.';
COMMENT ON COLUMN recommendation_trace.title IS 'One line for people.';
COMMENT ON COLUMN recommendation_trace.status IS 'State of the recommendation; see the type.';
COMMENT ON COLUMN recommendation_trace.priority IS 'How much it matters.';
COMMENT ON COLUMN recommendation_trace.agent IS 'Name of the agent that proposes it.';
COMMENT ON COLUMN recommendation_trace.created_at IS 'When it was proposed.';
COMMENT ON COLUMN recommendation_trace.approval IS
'State of the latest approval, pending where it expired undecided; NULL where none was asked '
'for.';
COMMENT ON COLUMN recommendation_trace.decided_by IS
'Who decided the latest approval; NULL where nobody did.';
COMMENT ON COLUMN recommendation_trace.decided_at IS
'When the latest approval was decided; NULL where it was not.';
COMMENT ON COLUMN recommendation_trace.waited_for IS
'How long the latest approval waited, or has been waiting, to be decided or to expire; NULL where '
'the recommendation was decided without it.';
COMMENT ON COLUMN recommendation_trace.workflow IS
'The job of the run that produced it; NULL where none did, or that one was deleted.';
COMMENT ON COLUMN recommendation_trace.steps_done IS
'How many steps of that run completed or were skipped, but not those that its end closed; 0 '
'without a run.';
COMMENT ON COLUMN recommendation_trace.steps_total IS
'How many steps that run has; 0 without a run.';
COMMENT ON COLUMN recommendation_trace.artifacts IS
'How many artifacts that run left; 0 without a run.';
COMMENT ON COLUMN recommendation_trace.optimization IS
'State of the latest optimization; NULL where it was not carried out.';
COMMENT ON COLUMN recommendation_trace.progress IS
'How far the latest optimization is, 0 to 100; NULL where there is none.';
COMMENT ON COLUMN recommendation_trace.predicted_savings IS
'What it should save, in USD a month; NULL where that was not estimated.';
COMMENT ON COLUMN recommendation_trace.realised_savings IS
'What its completed optimizations really save, in USD a month, those that were rolled back not '
'counted; NULL where that is not known.';
COMMENT ON COLUMN recommendation_trace.savings_difference IS
'The realised savings less the predicted ones; NULL where either is not known.';
COMMENT ON COLUMN recommendation_trace.customer_id IS 'Tenant.';
COMMENT ON COLUMN recommendation_trace.recommendation_id IS
'The recommendation; get_recommendation_trace has all of it.';
COMMENT ON COLUMN recommendation_trace.agent_id IS 'The agent that proposes it.';
COMMENT ON COLUMN recommendation_trace.approval_id IS
'The latest approval; NULL where none was asked for.';
COMMENT ON COLUMN recommendation_trace.workflow_execution_id IS
'The run that produced it; NULL where none did, or that one was deleted.';
COMMENT ON COLUMN recommendation_trace.optimization_id IS
'The latest optimization; NULL where there is none.';

CREATE VIEW savings_by_month
WITH (security_invoker = true) AS
SELECT
    made.month,
    customers.name AS customer,
    agents.name AS agent,
    made.recommendations,
    made.rejected,
    made.approved,
    made.completed,
    made.rolled_back,
    made.predicted_savings,
    made.approved_savings,
    made.realised_savings,
    customers.id AS customer_id,
    made.agent_id
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
        WHERE recommendations.customer_id = customers.id
        GROUP BY month, recommendations.agent_id
    ) AS made
INNER JOIN agents ON made.agent_id = agents.id;
COMMENT ON VIEW savings_by_month IS
'What came of the recommendations made in each month, by customer and agent: a cohort, so what '
'becomes of a recommendation changes the row of the month in which it was made. ORDER BY month '
'DESC is newest first.';
COMMENT ON COLUMN savings_by_month.month IS
'First day of the month (UTC) in which the recommendations were made.';
COMMENT ON COLUMN savings_by_month.customer IS 'Name of the customer.';
COMMENT ON COLUMN savings_by_month.agent IS 'Name of the agent that made them.';
COMMENT ON COLUMN savings_by_month.recommendations IS 'How many were made.';
COMMENT ON COLUMN savings_by_month.rejected IS 'How many of them were rejected.';
COMMENT ON COLUMN savings_by_month.approved IS
'How many of them were approved and not rejected since.';
COMMENT ON COLUMN savings_by_month.completed IS
'How many of them were carried out, and not undone.';
COMMENT ON COLUMN savings_by_month.rolled_back IS 'How many of them were undone.';
COMMENT ON COLUMN savings_by_month.predicted_savings IS
'What all of them should save, in USD a month; 0 for what was not estimated.';
COMMENT ON COLUMN savings_by_month.approved_savings IS
'What the approved ones should save, in USD a month; 0 for what was not estimated.';
COMMENT ON COLUMN savings_by_month.realised_savings IS
'What their completed optimizations really save, in USD a month, those that were rolled back not '
'counted; 0 for what is not known.';
COMMENT ON COLUMN savings_by_month.customer_id IS 'Tenant.';
COMMENT ON COLUMN savings_by_month.agent_id IS 'The agent that made them.';

COMMENT ON INDEX approvals_customer_id_recommendation_id_idx IS
'Serves list_recommendation_approvals, get_recommendation_trace, and deleting a recommendation.';
COMMENT ON INDEX approvals_recommendation_id_pending_key IS
'One open question a recommendation. Serves list_pending_approvals and list_expired_approvals.';
COMMENT ON INDEX optimizations_customer_id_recommendation_id_idx IS
'Serves list_recommendation_optimizations, get_recommendation_trace, list_savings, and deleting '
'a recommendation.';
