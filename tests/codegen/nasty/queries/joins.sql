-- What sqlc does not say and the text does.
-- name: add_accounts :copyfrom
INSERT INTO accounts AS a (id /* the key, of ) all */, owner) VALUES ($1, $2);

-- name: add_words :copyfrom
INSERT INTO words VALUES ($1);

-- name: add_shapes :copyfrom
INSERT INTO shapes (id, grid, labels, few, feelings, code, mro, "a,b", "c)d" -- , the last
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: add_shape :one
-- @author someone
-- @returns exactly one
INSERT INTO shapes (id, grid, labels, few, feelings, mro) VALUES (@id, @grid, @labels, @few, @feelings, @mro)
RETURNING *;

-- name: find_shapes :many
SELECT id FROM shapes WHERE grid = @grid AND labels = @labels ORDER BY id;

-- name: longest :one
SELECT long FROM shapes WHERE id = $1;

-- name: pairs :many
SELECT dst.id, dst.owner, sqlc.embed(src), sqlc.embed(dst)
FROM accounts AS src INNER JOIN accounts AS dst ON src.id < dst.id
ORDER BY src.id, dst.id;

-- name: word_pairs :many
SELECT DISTINCT ON (b.word) b.word AS last, sqlc.embed(a), sqlc.embed(b)
FROM words AS a, words AS b WHERE a.word IS DISTINCT FROM b.word ORDER BY b.word;

-- name: pairs_beside_a_cte :many
WITH wanted AS (SELECT q.id, q.owner FROM accounts AS q)

SELECT sqlc.embed(src), sqlc.embed(dst)
FROM accounts AS src INNER JOIN accounts AS dst ON src.id < dst.id
WHERE src.id IN (SELECT id FROM wanted) ORDER BY src.id, dst.id;

-- name: other_books :many
SELECT sqlc.embed(books) FROM other.books ORDER BY books.id;

-- name: books :many
SELECT sqlc.embed(books), 1 AS one FROM books ORDER BY books.id;

-- name: put_books :exec
WITH one AS (INSERT INTO books (id, title) VALUES (1, 'a')) INSERT INTO other.books (id, pages, title) VALUES (2, 3, 'b');

-- name: next_accounts :many
SELECT sqlc.embed(a), sqlc.embed(b), c.total, lag(a.id) OVER (ORDER BY a.id) AS previous
FROM accounts AS a
LEFT JOIN accounts AS b ON b.id = a.id + 1
LEFT JOIN LATERAL (SELECT d.id AS total FROM accounts AS d WHERE d.id > a.id ORDER BY d.id LIMIT 1) AS c ON true
ORDER BY a.id;

-- name: right_accounts :many
SELECT sqlc.embed(a), w.word FROM accounts AS a RIGHT OUTER JOIN words AS w ON w.word = a.owner ORDER BY w.word;

-- name: totals :one
-- @returns exactly one
-- @notnull least
SELECT
    count(*) AS n, sum(id) AS total, max(owner)::text AS latest, array_agg(id) AS ids,
    (SELECT a.owner FROM accounts AS a WHERE a.id = -1) AS nobody,
    (SELECT count(*) FROM words) AS words, min(id) AS least
FROM accounts;

-- name: totals_by_owner :many
SELECT owner, max(id) AS latest, min(id) FILTER (WHERE id > 1) AS first FROM accounts GROUP BY owner ORDER BY owner;
