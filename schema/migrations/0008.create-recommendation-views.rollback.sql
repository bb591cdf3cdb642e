-- The views hold no data:
-- squawk-ignore-file ban-drop-view

SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

COMMENT ON INDEX optimizations_customer_id_recommendation_id_idx IS
'Serves list_recommendation_optimizations, and deleting a recommendation.';
COMMENT ON INDEX approvals_recommendation_id_pending_key IS
'One open question a recommendation. Serves list_pending_approvals.';
COMMENT ON INDEX approvals_customer_id_recommendation_id_idx IS
'Serves list_recommendation_approvals, and deleting a recommendation.';
DROP VIEW savings_by_month;
DROP VIEW recommendation_trace;
