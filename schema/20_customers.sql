-- A customer is a tenant of the platform. Whatever belongs to a customer carries its customer_id,
-- as the first column of its primary key and in each of its foreign keys, so that a row of one
-- customer cannot point at a row of another. Deleting a customer deletes all of that.
--
-- Written by the orchestrator when a customer signs up or changes plan. Tens to thousands of rows.
-- It holds no secret: what a customer authenticates with is in api_keys.

CREATE TYPE customer_plan AS ENUM ('free', 'startup', 'enterprise');
COMMENT ON TYPE customer_plan IS 'What a customer pays for.';

CREATE TYPE customer_status AS ENUM ('active', 'suspended', 'churned');
COMMENT ON TYPE customer_status IS 'Whether the platform works for a customer.';

CREATE TABLE customers (
    id uuid NOT NULL DEFAULT uuidv7(),
    name text NOT NULL,
    email text NOT NULL,
    plan customer_plan NOT NULL DEFAULT 'free',
    status customer_status NOT NULL DEFAULT 'active',
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT customers_pkey PRIMARY KEY (id),
    CONSTRAINT customers_name_check CHECK (char_length(name) BETWEEN 1 AND 255),
    CONSTRAINT customers_email_check CHECK (
        char_length(email) <= 254
        AND email ~ '^[^@\s]+@[^@\s]+$'
    ),
    CONSTRAINT customers_metadata_check CHECK (jsonb_typeof(metadata) = 'object')
);
COMMENT ON TABLE customers IS
'Tenants of the platform. Everything that a customer owns goes with its row.';
COMMENT ON COLUMN customers.id IS 'UUIDv7; the caller may supply it, to create safely twice.';
COMMENT ON COLUMN customers.name IS 'Display name, 1 to 255 characters.';
COMMENT ON COLUMN customers.email IS 'Contact address; unique ignoring case.';
COMMENT ON COLUMN customers.plan IS 'What the customer pays for.';
COMMENT ON COLUMN customers.status IS 'Whether the platform works for this customer.';
COMMENT ON COLUMN customers.metadata IS 'Free-form object: region, industry, contract, ...';
COMMENT ON COLUMN customers.created_at IS 'When the row was written.';
COMMENT ON COLUMN customers.updated_at IS 'When the row last changed; kept by a trigger.';

CREATE UNIQUE INDEX customers_email_key ON customers (lower(email));
COMMENT ON INDEX customers_email_key IS
'One customer an address, ignoring case. Serves get_customer_by_email.';
COMMENT ON INDEX customers_pkey IS 'Serves get_customer, list_customers and every foreign key.';

CREATE TRIGGER customers_set_updated_at
BEFORE UPDATE ON customers
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
EXECUTE FUNCTION set_updated_at();
COMMENT ON TRIGGER customers_set_updated_at ON customers IS 'Keeps updated_at.';
