-- An ordinary schema, for the options.
CREATE TYPE book_type AS ENUM ('FICTION', 'NON-FICTION');

CREATE TABLE authors (
    author_id serial PRIMARY KEY,
    name text NOT NULL DEFAULT '',
    born integer
);

CREATE DOMAIN isbn AS text CHECK (value ~ '^[0-9X-]+$');

CREATE TABLE books (
    book_id serial PRIMARY KEY,
    author_id integer NOT NULL REFERENCES authors (author_id),
    isbn isbn NOT NULL UNIQUE,
    book_type book_type NOT NULL DEFAULT 'FICTION',
    price numeric,
    available timestamptz NOT NULL DEFAULT '2024-01-01 00:00:00Z',
    tags varchar [] NOT NULL DEFAULT '{}',
    details jsonb NOT NULL DEFAULT '{}',
    links jsonb [] NOT NULL DEFAULT '{}',
    schema text,
    _hidden integer NOT NULL DEFAULT 1
);

CREATE TABLE extras (
    extra_id serial PRIMARY KEY,
    size numeric NOT NULL,
    sizes integer [] NOT NULL,
    kind text NOT NULL,
    facts jsonb NOT NULL DEFAULT '{}',
    numbers jsonb
);

CREATE VIEW author_names AS SELECT name FROM authors;
