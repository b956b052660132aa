-- sqlite.sql - build and query a database of 300,000 rows in memory. Called by run.sh.
-- Every value comes from the row's number, so the output is the same under every allocator.
CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT NOT NULL, region INTEGER NOT NULL);
CREATE TABLE sale(id INTEGER PRIMARY KEY, customer INTEGER NOT NULL, cents INTEGER NOT NULL, note TEXT);

BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO customer SELECT i, printf('customer-%05d', i * 7919 % 20000), i % 17 FROM n;

WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 280000)
INSERT INTO sale SELECT i, i * 104729 % 20000 + 1, i * 48271 % 100003, printf('%.*c%d', i % 60, 'x', i) FROM n;
COMMIT;

CREATE INDEX customer_by_name ON customer(name);
CREATE INDEX sale_by_customer ON sale(customer, cents);
CREATE INDEX sale_by_note ON sale(note);
ANALYZE;

SELECT 'rows', (SELECT count(*) FROM customer) + (SELECT count(*) FROM sale);
SELECT 'region', region, count(*), sum(cents), round(avg(cents), 3)
  FROM sale JOIN customer ON customer.id = sale.customer GROUP BY region ORDER BY region;
SELECT 'best', name, sum(cents) AS total
  FROM sale JOIN customer ON customer.id = sale.customer GROUP BY name ORDER BY total DESC, name LIMIT 10;
SELECT 'notes', count(DISTINCT substr(note, 1, 12)), max(length(note)) FROM sale;

UPDATE sale SET cents = cents + 1, note = note || '-' || customer WHERE id % 3 = 0;
DELETE FROM sale WHERE id % 7 = 0;
INSERT INTO sale SELECT id + 1000000, customer, cents, upper(note) FROM sale WHERE id % 5 = 0;

SELECT 'after', count(*), sum(cents), sum(length(note)) FROM sale;
SELECT 'joined', length(group_concat(name, ',')), count(*)
  FROM (SELECT name FROM customer WHERE id IN (SELECT customer FROM sale WHERE cents < 5000) ORDER BY name);
PRAGMA integrity_check;
