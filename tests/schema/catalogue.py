"""What a database holds, by its catalogues: every kind of object, with all that defines it."""

import psycopg

SCHEMA = "n.nspname = current_schema()"
"""Only what is ours: the bookkeeping of migrations is not part of the schema."""

KINDS = {
    "relations": f"""
        SELECT c.relname, c.relkind, c.relpersistence, c.reloptions::text, c.relacl::text,
            c.relrowsecurity, c.relforcerowsecurity, c.relreplident,
            pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid),
            CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE {SCHEMA} AND c.relname !~ 'yoyo'
    """,
    "columns": f"""
        SELECT c.relname, row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), a.attname,
            format_type(a.atttypid, a.atttypmod), a.attnotnull,
            a.attidentity, a.attgenerated, a.attstorage, a.attcompression, a.attstattarget,
            a.attacl::text, a.attcollation, pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attribute AS a
        JOIN pg_class AS c ON c.oid = a.attrelid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE {SCHEMA} AND c.relname !~ 'yoyo' AND a.attnum > 0 AND NOT a.attisdropped
            AND c.relkind IN ('r', 'p', 'v', 'm')
    """,
    "constraints": f"""
        SELECT c.relname, o.conname, o.contype, o.convalidated, o.condeferrable,
            pg_get_constraintdef(o.oid)
        FROM pg_constraint AS o
        JOIN pg_class AS c ON c.oid = o.conrelid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE {SCHEMA} AND c.relname !~ 'yoyo'
    """,
    "indexes": f"""
        SELECT t.relname, c.relname, pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisunique,
            i.indisprimary
        FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indexrelid
        JOIN pg_class AS t ON t.oid = i.indrelid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE {SCHEMA} AND t.relname !~ 'yoyo'
    """,
    "statistics": f"""
        SELECT s.stxname, pg_get_statisticsobjdef(s.oid)
        FROM pg_statistic_ext AS s JOIN pg_namespace AS n ON n.oid = s.stxnamespace
        WHERE {SCHEMA}
    """,
    "types": f"""
        SELECT t.typname, t.typtype, t.typacl::text, (
            SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder)
            FROM pg_enum AS e WHERE e.enumtypid = t.oid
        )
        FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
        WHERE {SCHEMA} AND t.typname !~ 'yoyo'
    """,
    "functions": f"""
        SELECT p.proname, pg_get_functiondef(p.oid), p.proacl::text
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE {SCHEMA}
    """,
    "triggers": f"""
        SELECT c.relname, t.tgname, pg_get_triggerdef(t.oid), t.tgenabled
        FROM pg_trigger AS t
        JOIN pg_class AS c ON c.oid = t.tgrelid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE {SCHEMA} AND NOT t.tgisinternal
    """,
    "inheritance": f"""
        SELECT c.relname, p.relname
        FROM pg_inherits AS i
        JOIN pg_class AS c ON c.oid = i.inhrelid
        JOIN pg_class AS p ON p.oid = i.inhparent
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE {SCHEMA}
    """,
    "rules, policies, statistics, event triggers, publications, extensions": f"""
        SELECT 'rule', r.rulename, pg_get_ruledef(r.oid)
        FROM pg_rewrite AS r
        JOIN pg_class AS c ON c.oid = r.ev_class
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE {SCHEMA}
        UNION ALL SELECT 'policy', polname, polrelid::regclass::text FROM pg_policy
        UNION ALL SELECT 'statistics', stxname, pg_get_statisticsobjdef(oid) FROM pg_statistic_ext
        UNION ALL SELECT 'event trigger', evtname, evtfoid::regproc::text FROM pg_event_trigger
        UNION ALL SELECT 'publication', pubname, puballtables::text FROM pg_publication
        UNION ALL SELECT 'extension', extname, extversion FROM pg_extension
        UNION ALL SELECT 'schema', nspname, nspacl::text FROM pg_namespace
            WHERE nspname !~ '^pg_'
    """,
    "comments": """
        SELECT i.type, i.identity, d.description
        FROM pg_description AS d,
            pg_identify_object(d.classoid, d.objoid, d.objsubid) AS i
        WHERE d.objoid >= 16384 AND i.identity !~ 'yoyo'
    """,
}


def catalogue(conn: psycopg.Connection) -> dict[str, list[tuple]]:
    """Return the rows of every kind of object, sorted."""
    return {
        kind: sorted((tuple(row) for row in conn.execute(query)), key=repr)
        for kind, query in KINDS.items()
    }
