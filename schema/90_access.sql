-- Who may do what. Four group roles, which logins are members of:
--
--     optiinfra_owner    owns everything: migrates, deletes, seals
--     optiinfra_service  the platform and its agents: all customers, but history only grows
--     optiinfra_tenant   the rows of one customer, the one that the session is for
--     optiinfra_reader   reads, of all customers, but no secrets
--
-- The rules are in one place, and SELECT * FROM access_rules shows them. Tables of customers are
-- under row-level security, their owner included: who is in none of the other three groups sees the
-- rows of current_customer_id(), and nothing where that is NULL.
--
-- grant_access() brings it about, roles included. Every migrate calls it.

CREATE VIEW access_rules WITH (security_invoker = true) AS
-- noqa: disable=LT02, LT09
-- A rule a line.
SELECT
    1 AS place,
    'legal_holds' AS relation_name,
    'customer_id' AS customer_column,
    'SELECT' AS service,
    NULL AS tenant,
    'SELECT' AS reader
UNION ALL
SELECT 2, 'workflow_executions', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT 3, 'workflow_steps', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT 4, 'workflow_artifacts', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT 5, 'recommendations', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT 6, 'approvals', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT 7, 'optimizations', 'customer_id',
    'SELECT, INSERT, UPDATE', 'SELECT, INSERT, UPDATE', 'SELECT'
UNION ALL
SELECT
    8,
    'events',
    'customer_id',
    'SELECT, INSERT (customer_id, created_at, id, agent_id, event_type, severity, subject_type, '
    'subject_id, actor, data)',
    'SELECT, INSERT (customer_id, created_at, id, agent_id, event_type, severity, subject_type, '
    'subject_id, data)',
    'SELECT'
UNION ALL
SELECT 9, 'event_seals', 'customer_id', 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT
    10,
    'api_keys',
    'customer_id',
    'SELECT (customer_id, id, created_at, updated_at, expires_at, revoked_at, last_used_at), '
    'INSERT, UPDATE (expires_at, revoked_at)',
    NULL,
    'SELECT (customer_id, id, created_at, updated_at, expires_at, revoked_at, last_used_at)'
UNION ALL
SELECT 11, 'agent_metrics', NULL, 'SELECT, INSERT', NULL, 'SELECT'
UNION ALL
SELECT 12, 'agent_states', NULL, 'SELECT, INSERT, UPDATE, DELETE', NULL, 'SELECT'
UNION ALL
SELECT 13, 'agent_configs', NULL, 'SELECT, INSERT, UPDATE, DELETE', NULL,
    'SELECT (id, agent_id, config_key, config_type, description, created_at, updated_at)'
UNION ALL
SELECT 14, 'agent_capabilities', NULL, 'SELECT, INSERT, UPDATE, DELETE', NULL, 'SELECT'
UNION ALL
SELECT 15, 'agents', NULL, 'SELECT, INSERT, UPDATE', 'SELECT', 'SELECT'
UNION ALL
SELECT 16, 'retention_policies', 'customer_id', 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 17, 'customers', 'id', 'SELECT, INSERT, UPDATE', 'SELECT', 'SELECT'
UNION ALL
SELECT 18, 'receipts', 'customer_id', 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 19, 'status_transitions', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 20, 'access_rules', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 21, 'workflow_progress', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 22, 'running_workflows', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 23, 'failed_workflows', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 24, 'workflow_stats', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 25, 'recommendation_trace', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 26, 'savings_by_month', NULL, 'SELECT', 'SELECT', 'SELECT'
UNION ALL
SELECT 27, 'agent_workload', NULL, 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 28, '_yoyo_migration', NULL, 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 29, '_yoyo_log', NULL, 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 30, '_yoyo_checksum', NULL, 'SELECT', NULL, 'SELECT'
UNION ALL
SELECT 31, '_yoyo_version', NULL, NULL, NULL, NULL
ORDER BY place;
-- noqa: enable=LT02, LT09
COMMENT ON VIEW access_rules IS
'Who may do what: the privileges of the group roles on each table and view. optiinfra_owner owns '
'them; only that role deletes history and customers.';
COMMENT ON COLUMN access_rules.place IS 'From 1, in the order in which writers lock the tables.';
COMMENT ON COLUMN access_rules.relation_name IS 'The table or view.';
COMMENT ON COLUMN access_rules.customer_column IS
'The column that says whose a row is; NULL where there is no row-level security.';
COMMENT ON COLUMN access_rules.service IS
'What optiinfra_service may do, of all customers; NULL for nothing.';
COMMENT ON COLUMN access_rules.tenant IS
'What optiinfra_tenant may do, of one customer; NULL for nothing.';
COMMENT ON COLUMN access_rules.reader IS
'What optiinfra_reader may do, of all customers; NULL for nothing.';

CREATE FUNCTION isolate_customers(tenant_table regclass, customer_column name) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    trusted text := (
        SELECT string_agg(quote_ident(pg_roles.rolname), ', ' ORDER BY pg_roles.rolname)
        FROM pg_roles
        WHERE
            pg_roles.rolname IN ('optiinfra_owner', 'optiinfra_service', 'optiinfra_reader')
            OR pg_roles.oid = (SELECT relowner FROM pg_class WHERE oid = tenant_table)
    );
    policy name;
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', tenant_table);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', tenant_table);
    FOR policy IN SELECT polname FROM pg_policy WHERE polrelid = tenant_table LOOP
        EXECUTE format('DROP POLICY %I ON %s', policy, tenant_table);
    END LOOP;
    -- In a sub-select, the customer is asked for once a statement and not once a row.
    EXECUTE format(
        'CREATE POLICY own_rows ON %s USING (%I = (SELECT current_customer_id()))',
        tenant_table, customer_column
    );
    EXECUTE format('CREATE POLICY all_rows ON %s TO %s USING (true)', tenant_table, trusted);
    EXECUTE format(
        'COMMENT ON POLICY own_rows ON %s IS ''The rows of the customer whom the session is for.''',
        tenant_table
    );
    EXECUTE format(
        'COMMENT ON POLICY all_rows ON %s IS ''The platform works for all customers.''',
        tenant_table
    );
END
$$;
COMMENT ON FUNCTION isolate_customers(regclass, name) IS
'Puts a table of customers, or a partition of one, under row-level security.';

CREATE FUNCTION grant_access(anew boolean DEFAULT false) RETURNS SETOF text
LANGUAGE plpgsql
AS $$
DECLARE
    schema_name name := current_schema();
    is_owned boolean := false;
    item record;
    granted record;
BEGIN
    FOR item IN
        SELECT format('CREATE ROLE %I NOLOGIN', r) AS statement
        FROM unnest(
            ARRAY['optiinfra_owner', 'optiinfra_service', 'optiinfra_tenant', 'optiinfra_reader']
        ) AS r
        WHERE to_regrole(r) IS NULL
        UNION ALL
        -- Who works for all customers may work for one. A superuser may anyway.
        SELECT format('GRANT %I TO %I', m.of_role, m.member) AS statement
        FROM (
            VALUES
            ('optiinfra_owner', 'optiinfra_tenant'),
            ('optiinfra_service', 'optiinfra_tenant'),
            (session_user::text, 'optiinfra_owner')
        ) AS m (member, of_role)
        WHERE
            to_regrole(quote_ident(m.member)) IS NULL
            OR to_regrole(m.of_role) IS NULL
            OR NOT pg_has_role(m.member, m.of_role, 'USAGE')
        UNION ALL
        SELECT format('GRANT USAGE, CREATE ON SCHEMA %I TO optiinfra_owner', schema_name)
        WHERE
            to_regrole('optiinfra_owner') IS NULL
            OR NOT has_schema_privilege('optiinfra_owner', schema_name, 'CREATE')
        UNION ALL
        SELECT
            format(
                'GRANT USAGE ON SCHEMA %I TO optiinfra_service, optiinfra_tenant, optiinfra_reader',
                schema_name
            )
        WHERE NOT has_schema_privilege('public', schema_name, 'USAGE')
    LOOP
        BEGIN
            EXECUTE item.statement;
        EXCEPTION
            WHEN insufficient_privilege OR undefined_object THEN RETURN NEXT item.statement;
            WHEN duplicate_object OR unique_violation THEN NULL; -- by another database's migrate
        END;
    END LOOP;
    -- To compare enums and numerics gives nothing away, but PostgreSQL does not say so, and before
    -- row-level security has had its say it uses what it knows to be leakproof only: no index on a
    -- status, a type or savings would do. To say it is for a superuser.
    FOR item IN
        SELECT p.oid::regprocedure AS comparison
        FROM pg_proc AS p
        INNER JOIN pg_roles AS r ON r.rolname = current_user AND r.rolsuper
        WHERE
            p.pronamespace = 'pg_catalog'::regnamespace
            AND p.proname IN (
                'enum_eq', 'numeric_cmp', 'numeric_eq', 'numeric_ge', 'numeric_gt', 'numeric_le',
                'numeric_lt'
            )
            AND NOT p.proleakproof
    LOOP
        EXECUTE format('ALTER FUNCTION %s LEAKPROOF', item.comparison);
    END LOOP;

    IF to_regrole('optiinfra_owner') IS NOT NULL THEN
        is_owned := pg_has_role('optiinfra_owner', 'USAGE')
            AND has_schema_privilege('optiinfra_owner', schema_name, 'CREATE');
    END IF;

    -- Tables are locked only where something is to be granted.
    IF
        NOT anew
        AND NOT EXISTS (
            SELECT
            FROM pg_class
            INNER JOIN pg_policy
                ON pg_class.oid = pg_policy.polrelid AND pg_policy.polname = 'all_rows'
            INNER JOIN pg_roles
                ON
                    pg_roles.oid != ALL (pg_policy.polroles)
                    OR (
                        is_owned
                        AND pg_roles.rolname = 'optiinfra_owner'
                        AND pg_roles.oid != pg_class.relowner
                    )
            WHERE
                pg_class.oid = 'customers'::regclass
                AND pg_roles.rolname IN (
                    'optiinfra_owner', 'optiinfra_service', 'optiinfra_reader'
                )
        )
    THEN
        RETURN;
    END IF;
    FOR item IN
        SELECT
            format(
                'LOCK TABLE %s IN ACCESS EXCLUSIVE MODE',
                string_agg(quote_ident(rules.relation_name), ', ' ORDER BY rules.place)
            ) AS statement
        FROM access_rules AS rules
        INNER JOIN pg_class
            ON
                pg_class.oid = to_regclass(rules.relation_name)
                AND pg_class.relkind IN ('r', 'p')
    LOOP
        EXECUTE item.statement;
    END LOOP;

    IF is_owned THEN
        FOR item IN
            WITH relation AS (
                SELECT tree.relid
                FROM access_rules AS rules
                INNER JOIN pg_class ON pg_class.oid = to_regclass(rules.relation_name)
                CROSS JOIN LATERAL (
                    SELECT pg_class.oid AS relid
                    UNION
                    SELECT pg_inherits.inhrelid
                    FROM pg_inherits
                    WHERE pg_inherits.inhparent = pg_class.oid
                ) AS tree
            )
            SELECT format('ALTER TABLE %s', c.oid::regclass) AS alter_it
            FROM pg_class AS c
            INNER JOIN relation ON c.oid = relation.relid
            WHERE c.relowner != 'optiinfra_owner'::regrole
            UNION
            SELECT format('ALTER TYPE %s', t.oid::regtype) AS alter_it
            FROM pg_attribute AS a
            INNER JOIN relation ON a.attrelid = relation.relid
            INNER JOIN pg_type AS t ON a.atttypid = t.oid AND t.typtype = 'e'
            WHERE t.typowner != 'optiinfra_owner'::regrole
            UNION
            SELECT format('ALTER FUNCTION %s', p.oid::regprocedure) AS alter_it
            FROM pg_proc AS p
            LEFT JOIN pg_trigger AS t ON p.oid = t.tgfoid
            LEFT JOIN relation ON t.tgrelid = relation.relid
            WHERE
                p.pronamespace = quote_ident(schema_name)::regnamespace
                AND p.proowner != 'optiinfra_owner'::regrole
                AND (
                    relation.relid IS NOT NULL
                    OR p.proname IN (
                        'acquire_agent_lock', 'authenticate_api_key', 'canonical_event',
                        'config_value_parses', 'current_actor', 'current_customer_id',
                        'ensure_partitions', 'forget_event_xact_ids', 'grant_access',
                        'hash_events', 'hash_seal', 'isolate_customers', 'refuse_stale_write',
                        'refuse_value', 'rotate_api_key', 'uuidv7'
                    )
                )
        LOOP
            EXECUTE item.alter_it || ' OWNER TO optiinfra_owner';
        END LOOP;
        -- For the tables of migrations to come.
        EXECUTE format(
            'ALTER DEFAULT PRIVILEGES FOR ROLE optiinfra_owner IN SCHEMA %I '
            'GRANT SELECT ON TABLES TO optiinfra_service, optiinfra_reader',
            schema_name
        );
    END IF;

    FOR item IN
        SELECT
            tree.relid AS relation,
            tree.relid = pg_class.oid AS is_whole,
            rules.*
        FROM access_rules AS rules
        INNER JOIN pg_class ON pg_class.oid = to_regclass(rules.relation_name)
        CROSS JOIN LATERAL (
            SELECT pg_class.oid::regclass AS relid
            UNION
            SELECT pg_inherits.inhrelid::regclass AS relid
            FROM pg_inherits
            WHERE pg_inherits.inhparent = pg_class.oid
        ) AS tree
    LOOP
        IF item.customer_column IS NOT NULL THEN
            PERFORM isolate_customers(item.relation, item.customer_column);
        END IF;
        FOR granted IN
            SELECT *
            FROM (
                VALUES
                ('optiinfra_service', item.service),
                ('optiinfra_tenant', item.tenant),
                ('optiinfra_reader', item.reader)
            ) AS g (role_name, privileges)
            WHERE to_regrole(g.role_name) IS NOT NULL
        LOOP
            -- A partition has what the default privileges give a new one.
            IF NOT item.is_whole THEN
                granted.privileges := CASE
                    WHEN granted.role_name != 'optiinfra_tenant' THEN 'SELECT'
                END;
            END IF;
            EXECUTE format('REVOKE ALL ON %s FROM %s', item.relation, granted.role_name);
            IF granted.privileges IS NOT NULL THEN
                EXECUTE format(
                    'GRANT %s ON %s TO %s', granted.privileges, item.relation, granted.role_name
                );
            END IF;
        END LOOP;
    END LOOP;
    IF to_regrole('optiinfra_service') IS NOT NULL THEN
        GRANT EXECUTE ON FUNCTION authenticate_api_key TO optiinfra_service;
    END IF;
END
$$;
COMMENT ON FUNCTION grant_access(boolean) IS
'Makes the group roles and grants them what access_rules says, with row-level security; where that '
'is done already, only if `anew`. Returns the statements for which it lacked the privileges, which '
'an administrator has to run; then call it again.';

DO $do$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION isolate_customers(regclass, name) SET search_path = %I, pg_temp',
        current_schema()
    );
    EXECUTE format(
        'ALTER FUNCTION grant_access(boolean) SET search_path = %I, pg_temp', current_schema()
    );
    PERFORM grant_access(anew => true);
END
$do$;
