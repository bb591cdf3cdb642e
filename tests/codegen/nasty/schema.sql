-- Made to be nasty: every kind of type, and names and texts that are hard to carry over.
CREATE TYPE mood AS ENUM ('sad', 'ok', '1st', '', '!?', 'a-b', 'a_b', 'don''t "quote"', 'grün', 'back\slash', '100%', '__x__');
COMMENT ON TYPE mood IS 'How one feels. Says "who" and C:\temp, 100 %, """three quotes"""';
CREATE TYPE "Odd Enum" AS ENUM ('x y', 'NULL', '{curly,braces}');

CREATE SCHEMA other;
CREATE TYPE other.color AS ENUM ('red', 'green');

CREATE DOMAIN email AS text CHECK (value LIKE '%@%');
CREATE DOMAIN positive AS integer CHECK (value > 0);
CREATE DOMAIN other.price AS numeric(10, 2);
/* Not this one: CREATE DOMAIN email AS integer; */
CREATE DOMAIN other.email AS bigint;
CREATE DOMAIN tags AS text [];
CREATE DOMAIN few_tags AS tags CHECK (cardinality(value) < 4);
CREATE DOMAIN moods AS mood [];
CREATE TYPE pair AS (a integer, b text);

CREATE TABLE everything (
    id bigserial PRIMARY KEY,
    c_int2 smallint,
    c_int4 integer,
    c_int8 bigint,
    c_float4 real,
    c_float8 double precision,
    c_numeric numeric(12, 2),
    c_bool boolean,
    c_text text,
    c_varchar varchar(20),
    c_char character(3),
    c_bytea bytea,
    c_uuid uuid,
    c_date date,
    c_time time,
    c_timetz timetz,
    c_timestamp timestamp,
    c_timestamptz timestamptz,
    c_interval interval,
    c_json json,
    c_jsonb jsonb,
    c_inet inet,
    c_cidr cidr,
    c_macaddr macaddr,
    c_xid8 xid8,
    c_oid oid,
    c_bit bit(3),
    c_money money,
    c_int4range int4range,
    c_int8range int8range,
    c_numrange numrange,
    c_daterange daterange,
    c_tstzrange tstzrange,
    c_datemultirange datemultirange,
    c_int8multirange int8multirange,
    c_mood mood,
    c_odd "Odd Enum",
    c_color other.color,
    c_email email,
    c_positive positive,
    c_price other.price,
    c_pair pair,
    c_ints integer [],
    c_matrix integer [] [],
    c_texts text [],
    c_times timestamptz [],
    c_jsonbs jsonb [],
    c_moods mood [],
    c_odds "Odd Enum" [],
    c_positives positive [],
    c_uuids uuid [],
    c_ranges int8range [],
    c_pairs pair [],
    c_snapshots pg_snapshot []
);
COMMENT ON TABLE everything IS 'One column of each type.

Ends in a backslash \';
COMMENT ON COLUMN everything.c_numeric IS 'US dollars; "quoted"';
COMMENT ON COLUMN everything.c_text IS 'A long comment that does not fit on one line of the generated code, because it goes on and on, for no good reason at all.';

-- Names that are keywords, builtins, or names that generated code uses itself.
CREATE TABLE list (
    id integer PRIMARY KEY,
    class text NOT NULL,
    "def" text NOT NULL,
    conn text NOT NULL,
    self text NOT NULL,
    cls text NOT NULL,
    uuid uuid NOT NULL,
    datetime timestamptz NOT NULL,
    models mood NOT NULL,
    psycopg text NOT NULL,
    typing text NOT NULL,
    "int" integer NOT NULL,
    str text NOT NULL,
    list integer [] NOT NULL,
    enum mood NOT NULL,
    dataclasses text NOT NULL,
    params text NOT NULL,
    rows integer NOT NULL,
    _runtime text NOT NULL,
    "None" text NOT NULL,
    "1st" integer NOT NULL,
    "per%cent" integer NOT NULL,
    "with space" integer NOT NULL,
    "camelCase" integer NOT NULL,
    __dunder integer NOT NULL,
    "größe" integer NOT NULL,
    a_column_name_as_long_as_postgresql_lets_a_column_name_ever_be_ timestamptz
);
CREATE TABLE "model" (id integer PRIMARY KEY, name text NOT NULL, "json" jsonb NOT NULL DEFAULT '{}');
CREATE TABLE "Odd Table" (id integer PRIMARY KEY, note text);

CREATE TABLE people (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    mood mood NOT NULL,
    boss_id bigint REFERENCES people (id)
);
COMMENT ON TABLE people IS 'Who works here.';
COMMENT ON COLUMN people.boss_id IS 'Whom they report to; NULL for the boss';
CREATE TABLE addresses (
    person_id bigint PRIMARY KEY REFERENCES people (id),
    city text NOT NULL,
    since timestamptz
);
CREATE TABLE optional (a integer, b text);
CREATE TABLE other.statuses (code text PRIMARY KEY, color other.color NOT NULL DEFAULT 'red');
CREATE TABLE measurements (
    sensor text NOT NULL,
    taken_at timestamptz NOT NULL,
    value numeric NOT NULL,
    tags jsonb NOT NULL,
    valid tstzrange,
    counts integer [],
    mood mood,
    PRIMARY KEY (sensor, taken_at)
);
CREATE TABLE documents (id integer PRIMARY KEY, body jsonb NOT NULL, extra jsonb, kind text NOT NULL DEFAULT 'a');

-- What is read out of a query's text.
CREATE TYPE an_enum_whose_name_is_as_long_as_postgresql_lets_any_name_be AS ENUM (
    'a label that is as long as postgresql lets a label ever be, 63'
);
CREATE TABLE shapes (
    id integer PRIMARY KEY,
    grid integer [] [] NOT NULL,
    labels tags NOT NULL,
    few few_tags,
    feelings moods,
    code other.email,
    mro integer NOT NULL,
    "a,b" text,
    "c)d" text,
    long an_enum_whose_name_is_as_long_as_postgresql_lets_any_name_be
);
CREATE TABLE accounts (id integer PRIMARY KEY, owner text NOT NULL);
CREATE TABLE words (word text NOT NULL);
CREATE TABLE books (id integer PRIMARY KEY, title text NOT NULL);
CREATE TABLE other.books (id integer PRIMARY KEY, pages integer NOT NULL, title text NOT NULL);
