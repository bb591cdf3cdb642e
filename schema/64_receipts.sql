-- What housekeeping did: a row for each operation, in the transaction that did it. Append-only; a
-- receipt outlives the customer that it is about, and says nothing about it but its id.
--
-- Written by housekeeping (optiinfra-db prune, archive, partitions drop, erase, import); one row
-- for some hundred runs that went, one for a month, one for a customer.

CREATE TABLE receipts (
    id uuid NOT NULL DEFAULT uuidv7(),
    operation text NOT NULL,
    customer_id uuid,
    row_counts jsonb NOT NULL,
    archive_url text,
    archive_sha256 bytea,
    actor text NOT NULL DEFAULT current_actor(),
    data jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT receipts_pkey PRIMARY KEY (id),
    CONSTRAINT receipts_operation_check CHECK (
        operation IN ('prune', 'drop_partition', 'erase', 'import')
    ),
    CONSTRAINT receipts_row_counts_check CHECK (jsonb_typeof(row_counts) = 'object'),
    CONSTRAINT receipts_archive_url_check CHECK (
        (archive_url IS NULL) = (archive_sha256 IS NULL)
        AND char_length(archive_url) BETWEEN 1 AND 1024
    ),
    CONSTRAINT receipts_archive_sha256_check CHECK (octet_length(archive_sha256) = 32),
    CONSTRAINT receipts_data_check CHECK (jsonb_typeof(data) = 'object')
);
COMMENT ON TABLE receipts IS
'What housekeeping deleted or brought back: how much, by whom, when; append-only.';
COMMENT ON COLUMN receipts.id IS 'UUIDv7.';
COMMENT ON COLUMN receipts.operation IS 'prune, drop_partition, erase or import.';
COMMENT ON COLUMN receipts.customer_id IS
'Whose rows; NULL for those of several. No foreign key, as it outlives its customer.';
COMMENT ON COLUMN receipts.row_counts IS 'Object: how many rows of each table.';
COMMENT ON COLUMN receipts.archive_url IS
'Where they were archived, up to 1,024 characters; NULL where they were not.';
COMMENT ON COLUMN receipts.archive_sha256 IS
'SHA-256 of the manifest of that archive, which has those of its files; 32 bytes.';
COMMENT ON COLUMN receipts.actor IS
'Who did it: the setting optiinfra.actor, else the database user; see current_actor().';
COMMENT ON COLUMN receipts.data IS 'Object with what else is to be known: partition, before, ...';
COMMENT ON COLUMN receipts.created_at IS 'When it was done.';

COMMENT ON INDEX receipts_pkey IS 'Serves list_receipts.';

CREATE FUNCTION refuse_receipt_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% of receipts is refused: receipts are append-only', TG_OP
        USING ERRCODE = 'OI004', TABLE = TG_TABLE_NAME,
            HINT = 'Receipts stay.';
END
$$;
COMMENT ON FUNCTION refuse_receipt_change() IS
'Trigger: refuses to change, delete or truncate receipts.';

CREATE TRIGGER receipts_refuse_change
BEFORE UPDATE OR DELETE ON receipts
FOR EACH ROW
EXECUTE FUNCTION refuse_receipt_change();
COMMENT ON TRIGGER receipts_refuse_change ON receipts IS 'Append-only.';

CREATE TRIGGER receipts_refuse_truncate
BEFORE TRUNCATE ON receipts
FOR EACH STATEMENT
EXECUTE FUNCTION refuse_receipt_change();
COMMENT ON TRIGGER receipts_refuse_truncate ON receipts IS 'Append-only.';
