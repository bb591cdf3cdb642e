-- name: GetAuthor :one
SELECT * FROM authors WHERE author_id = $1;

/* name: ListAuthors :many */
SELECT * FROM authors ORDER BY name;

-- name: CreateAuthor :one
INSERT INTO authors (name, born) VALUES ($1, $2) RETURNING *;

-- name: CreateBook :one
INSERT INTO books (author_id, isbn, book_type, price, details, links, tags, schema)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING *;

-- name: BooksByTags :many
SELECT book_id, isbn, name, tags, book_type FROM books
LEFT JOIN authors ON books.author_id = authors.author_id
WHERE tags && $1::varchar[] ORDER BY book_id;

-- name: Networks :one
SELECT $1::inet AS address, $2::cidr AS network, $3::book_type[] AS types;

-- name: SayHello :one
SELECT 'hello ' || $1::text;

-- name: DeleteAuthor :exec
DELETE FROM authors WHERE author_id = $1;

-- name: RaisePrices :execrows
UPDATE books SET price = price * @factor::numeric;

-- name: TouchBooks :execresult
UPDATE books SET _hidden = 2;

-- name: CopyAuthors :copyfrom
INSERT INTO authors (name, born) VALUES ($1, $2);

-- name: BooksWithAuthors :many
-- @nullable authors
SELECT sqlc.embed(books), sqlc.embed(authors) FROM books
LEFT JOIN authors ON books.author_id = authors.author_id ORDER BY books.book_id;

-- name: PutExtra :one
-- @param kind What it is.
-- @returns exactly one
INSERT INTO extras (size, sizes, kind, facts, numbers) VALUES ($1, $2, $3, $4, $5) RETURNING *;

-- name: HaveKeys :many
SELECT extra_id FROM extras WHERE facts ? $1 AND facts ?| $2 AND facts ?& $3 ORDER BY extra_id;
