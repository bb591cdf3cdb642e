-- name: seal_events :many
-- Seal the next max_events events of all customers, and those in the same place as the last: a
-- seal for each customer that has any. Returns the new seals without what they cover; none where
-- all that can be read from the feed is sealed, or another session is sealing. Nothing can appear
-- before what is sealed. For the owner; optiinfra_db.audit.seal calls it until nothing is left.
-- @row EventSealHead
--
-- @plan events_xact_id_id_idx, event_seals_pkey, rows <= max_events + 3 * customers + partitions,
--   buffers <= 4000 + 40 * max_events
WITH turn AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtextextended('optiinfra_db.event_seals', 0)) AS is_ours
),

last_seal AS MATERIALIZED (
    SELECT seal.*
    FROM customers
    CROSS JOIN LATERAL (
        SELECT
            event_seals.customer_id,
            event_seals.seal_number,
            event_seals.through_xact_id,
            event_seals.through_id,
            event_seals.hash
        FROM event_seals
        WHERE event_seals.customer_id = customers.id
        ORDER BY event_seals.seal_number DESC
        LIMIT 1
    ) AS seal
),

-- All were sealed together, up to here, ...
reached AS MATERIALIZED (
    SELECT
        through_xact_id AS xact_id,
        through_id AS id
    FROM last_seal
    UNION ALL
    SELECT
        '0'::xid8 AS xact_id,
        '00000000-0000-0000-0000-000000000000'::uuid AS id
),

batch AS MATERIALIZED (
    SELECT
        events.customer_id,
        events.created_at,
        events.id,
        events.xact_id,
        sha256(convert_to(canonical_event(events), 'UTF8')) AS digest
    FROM events
    CROSS JOIN turn
    LEFT JOIN last_seal ON events.customer_id = last_seal.customer_id
    WHERE
        turn.is_ours
        AND events.xact_id < pg_snapshot_xmin(pg_current_snapshot())
        AND (events.xact_id, events.id) > (
            SELECT
                reached.xact_id,
                reached.id
            FROM reached
            ORDER BY reached.xact_id DESC, reached.id DESC
            LIMIT 1
        )
        -- ... or further, where the customer who was furthest is gone.
        AND (
            last_seal.customer_id IS NULL
            OR (events.xact_id, events.id) > (last_seal.through_xact_id, last_seal.through_id)
        )
    ORDER BY events.xact_id, events.id
    FETCH FIRST (@max_events::integer) ROWS WITH TIES
),

covered AS MATERIALIZED (
    SELECT
        batch.customer_id,
        array_agg(batch.id ORDER BY batch.xact_id, batch.id, batch.created_at) AS ids,
        array_agg(batch.created_at ORDER BY batch.xact_id, batch.id, batch.created_at) AS times,
        array_agg(batch.digest ORDER BY batch.xact_id, batch.id, batch.created_at) AS digests
    FROM batch
    GROUP BY batch.customer_id
),

batch_end AS MATERIALIZED (
    SELECT
        batch.xact_id,
        batch.id
    FROM batch
    ORDER BY batch.xact_id DESC, batch.id DESC
    LIMIT 1
),

new_seal AS MATERIALIZED (
    SELECT
        covered.customer_id,
        coalesce(last_seal.seal_number, 0) + 1 AS seal_number,
        batch_end.xact_id AS through_xact_id,
        batch_end.id AS through_id,
        covered.ids,
        covered.times,
        covered.digests,
        hash_events(covered.ids, covered.times, covered.digests) AS events_hash,
        coalesce(last_seal.hash, decode(repeat('00', 32), 'hex')) AS previous_hash
    FROM covered
    CROSS JOIN batch_end
    LEFT JOIN last_seal ON covered.customer_id = last_seal.customer_id
),

written AS (
    INSERT INTO event_seals (
        customer_id,
        seal_number,
        through_xact_id,
        through_id,
        event_ids,
        event_times,
        event_digests,
        events_hash,
        previous_hash,
        hash
    )
    SELECT
        new_seal.customer_id,
        new_seal.seal_number,
        new_seal.through_xact_id,
        new_seal.through_id,
        new_seal.ids,
        new_seal.times,
        new_seal.digests,
        new_seal.events_hash,
        new_seal.previous_hash,
        hash_seal(
            new_seal.customer_id,
            new_seal.seal_number,
            new_seal.events_hash,
            new_seal.previous_hash
        )
    FROM new_seal
    ON CONFLICT (customer_id, seal_number) DO NOTHING
    RETURNING *
)

SELECT
    customer_id,
    seal_number,
    cardinality(event_ids)::integer AS event_count,
    through_xact_id,
    through_id,
    events_hash,
    previous_hash,
    hash,
    created_at
FROM written
ORDER BY customer_id;

-- name: list_event_seals :many
-- The chain of a customer: its seals without what they cover, in order, up to max_rows; the next
-- page starts after the last seal_number of this one.
-- @row EventSealHead
-- @required customer_id, max_rows
--
-- @plan event_seals_pkey, rows <= max_rows
SELECT
    customer_id,
    seal_number,
    cardinality(event_ids)::integer AS event_count,
    through_xact_id,
    through_id,
    events_hash,
    previous_hash,
    hash,
    created_at
FROM event_seals
WHERE
    customer_id = @customer_id
    AND seal_number > greatest(sqlc.narg('after_seal_number')::integer, 0)
ORDER BY seal_number
LIMIT @max_rows;

-- name: list_event_seal_heads :many
-- The last seal of each customer that has any, without what it covers: what to keep elsewhere.
-- @row EventSealHead
--
-- @plan event_seals_pkey, rows <= 2 * customers
SELECT
    head.customer_id,
    head.seal_number,
    cardinality(head.event_ids)::integer AS event_count,
    head.through_xact_id,
    head.through_id,
    head.events_hash,
    head.previous_hash,
    head.hash,
    head.created_at
FROM customers
CROSS JOIN
    LATERAL (
        SELECT event_seals.*
        FROM event_seals
        WHERE event_seals.customer_id = customers.id
        ORDER BY event_seals.seal_number DESC
        LIMIT 1
    ) AS head
ORDER BY head.customer_id;

-- name: list_event_seal_entries :many
-- What the seals of a customer cover, in order, up to max_rows seals, paged like list_event_seals:
-- ids, times and digests of their events. Where event_ids are given, of the seals that hold any of
-- them.
-- @required customer_id, max_rows
--
-- @plan event_seals_pkey, rows <= 2 * max_rows
SELECT
    seal_number,
    event_ids,
    event_times,
    event_digests
FROM event_seals
WHERE
    customer_id = @customer_id
    AND seal_number > greatest(sqlc.narg('after_seal_number')::integer, 0)
    AND (sqlc.narg('event_ids')::uuid[] IS NULL OR event_ids && sqlc.narg('event_ids')::uuid[])
ORDER BY seal_number
LIMIT @max_rows;

-- name: verify_event_seals :many
-- Compute the seals of a customer again, in order, up to max_rows, paged like list_event_seals.
-- problem says what is wrong, if anything: "the seal was changed", "the seal before it is gone",
-- "the seal before it was changed", "an event was changed", "an event was removed"; event_id and
-- event_time are of the first such event. Events of before kept_since may be gone.
-- @nullable problem, event_id, event_time
-- @required customer_id, max_rows
--
-- @plan event_seals_pkey, events_pkey, rows <= 2 * max_rows + sealed_events,
--   buffers <= 4000 + 20 * sealed_events
SELECT
    seal.seal_number,
    cardinality(seal.event_ids)::integer AS event_count,
    seal.hash,
    seal.created_at,
    coalesce(
        CASE
            WHEN
                seal.hash != hash_seal(
                    seal.customer_id,
                    seal.seal_number,
                    seal.events_hash,
                    seal.previous_hash
                )
                OR seal.events_hash
                != hash_events(seal.event_ids, seal.event_times, seal.event_digests)
                THEN 'the seal was changed'
            WHEN former.hash IS NULL AND seal.seal_number > 1 THEN 'the seal before it is gone'
            WHEN
                seal.previous_hash
                != coalesce(former.hash, decode(repeat('00', 32), 'hex'))
                THEN 'the seal before it was changed'
        END,
        deviation.problem
    )::text AS problem,
    deviation.event_id,
    deviation.event_time
FROM event_seals AS seal
LEFT JOIN event_seals AS former
    ON
        seal.customer_id = former.customer_id
        AND former.seal_number = seal.seal_number - 1
LEFT JOIN LATERAL (
    SELECT
        entry.id AS event_id,
        entry.created_at AS event_time,
        CASE
            WHEN events.id IS NULL THEN 'an event was removed'
            ELSE 'an event was changed'
        END AS problem
    FROM
        unnest(seal.event_ids, seal.event_times, seal.event_digests) WITH ORDINALITY
            AS entry (id, created_at, digest, place)
    LEFT JOIN events
        ON
            seal.customer_id = events.customer_id
            AND entry.created_at = events.created_at
            AND entry.id = events.id
    WHERE
        CASE
            WHEN events.id IS NULL
                THEN
                    entry.created_at
                    >= coalesce(sqlc.narg('kept_since')::timestamptz, '-infinity')
            ELSE sha256(convert_to(canonical_event(events), 'UTF8')) != entry.digest
        END
    ORDER BY entry.place
    LIMIT 1
) AS deviation ON true
WHERE
    seal.customer_id = @customer_id
    AND seal.seal_number > greatest(sqlc.narg('after_seal_number')::integer, 0)
ORDER BY seal.seal_number
LIMIT @max_rows;

-- name: find_unsealed_events :many
-- Events of a customer that no seal holds though they lie before the end of its last seal, in the
-- order of the feed, up to max_rows: they were inserted afterwards, or restored from a dump before
-- they were sealed.
-- @required customer_id, max_rows
--
-- @plan whole events, events_pkey, events_xact_id_id_idx, event_seals_pkey,
--   rows <= events + 4 * seals
WITH unsealed AS MATERIALIZED (
    SELECT
        events.id,
        events.created_at,
        events.xact_id
    FROM events
    WHERE
        events.customer_id = @customer_id
        AND (events.xact_id, events.id) <= (
            SELECT
                event_seals.through_xact_id,
                event_seals.through_id
            FROM event_seals
            WHERE event_seals.customer_id = @customer_id
            ORDER BY event_seals.seal_number DESC
            LIMIT 1
        )
        AND NOT EXISTS (
            SELECT
            FROM event_seals
            CROSS JOIN
                LATERAL unnest(event_seals.event_times, event_seals.event_ids)
                    AS entry (created_at, id)
            WHERE
                event_seals.customer_id = @customer_id
                AND entry.created_at = events.created_at
                AND entry.id = events.id
        )
)

SELECT
    id AS event_id,
    created_at AS event_time
FROM unsealed
ORDER BY xact_id, id
LIMIT @max_rows;

-- name: list_canonical_events :many
-- Events of a customer as they are hashed, oldest first, up to max_rows; the next page starts after
-- created_at and id of the last one of this.
-- @required customer_id, max_rows
--
-- @plan events_pkey, rows <= 2 * max_rows + partitions
SELECT
    created_at,
    id,
    canonical_event(events)::text AS canonical_text
FROM events
WHERE
    customer_id = @customer_id
    AND created_at >= greatest(sqlc.narg('after_created_at')::timestamptz, '-infinity')
    AND (created_at, id) > (
        greatest(sqlc.narg('after_created_at')::timestamptz, '-infinity'),
        greatest(sqlc.narg('after_id')::uuid, '00000000-0000-0000-0000-000000000000')
    )
ORDER BY created_at, id
LIMIT @max_rows;

-- name: list_canonical_events_by_subject :many
-- Events about these things (runs, steps, ...) as they are hashed, oldest first.
-- @required customer_id, subject_ids
--
-- @plan events_customer_id_subject_id_created_at_id_idx, rows <= 20 * subject_ids
SELECT
    created_at,
    id,
    canonical_event(events)::text AS canonical_text
FROM events
WHERE
    customer_id = @customer_id
    AND subject_id = any(@subject_ids::uuid[])
ORDER BY created_at, id;
