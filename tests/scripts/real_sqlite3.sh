#!/bin/bash
# real_sqlite3.sh - the sqlite3 shell on hakmem computes what it computes on the system's malloc, to the last byte.
#
# One large script of 300,000 rows: indexes, triggers, views, JSON, window functions, recursive queries, a full-text
# index where the library has one, a rollback, VACUUM and integrity_check. The output and the database file itself are
# compared. A smaller run then repeats it on every tiny profile.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require sqlite3

# ROWS rows. A row's contents follow from its number, so that every run has the same data.
write_script() { # ROWS
    local rows=$1
    cat << EOF
.bail on
PRAGMA journal_mode = WAL;
PRAGMA cache_size = -65536;
PRAGMA temp_store = MEMORY;
CREATE TABLE item (id INTEGER PRIMARY KEY, grp INTEGER NOT NULL, name TEXT NOT NULL, weight REAL, doc TEXT, raw BLOB);
CREATE TABLE audit (id INTEGER PRIMARY KEY, item INTEGER, what TEXT);
CREATE TABLE total (grp INTEGER PRIMARY KEY, n INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER item_insert AFTER INSERT ON item BEGIN
    INSERT INTO total VALUES (new.grp, 1, length(new.doc))
        ON CONFLICT (grp) DO UPDATE SET n = n + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER item_delete AFTER DELETE ON item BEGIN
    UPDATE total SET n = n - 1, bytes = bytes - length(old.doc) WHERE grp = old.grp;
    INSERT INTO audit (item, what) VALUES (old.id, 'deleted ' || old.name);
END;
BEGIN;
WITH RECURSIVE number(i, h) AS (
    SELECT 1, 12345
    UNION ALL
    SELECT i + 1, (h * 1103515245 + 12345) & 2147483647 FROM number WHERE i < $rows)
INSERT INTO item
SELECT i, h % 997, printf('item-%08x-%s', h, substr('abcdefghijklmnopqrstuvwxyz', 1 + h % 20, 1 + h % 7)), h / 1024.0,
       json_object('id', i, 'tags', json_array(h % 7, h % 11, 'tag' || (h % 13)), 'text',
                   printf('%.*c', 1 + h % 60, char(97 + h % 26))),
       CASE WHEN h % 5 = 0 THEN zeroblob(h % 300) ELSE NULL END
FROM number;
COMMIT;
CREATE INDEX item_name ON item (name);
CREATE INDEX item_grp_weight ON item (grp, weight DESC) WHERE weight > 1000;
CREATE INDEX item_tag ON item (json_extract(doc, '\$.tags[2]'));
ANALYZE;
SELECT 'rows', count(*) FROM item;
SELECT 'names', count(DISTINCT name), min(name), max(name) FROM item;
SELECT 'tags', json_extract(doc, '\$.tags[2]') AS tag, count(*), sum(length(doc)) FROM item GROUP BY tag ORDER BY tag;
SELECT 'each', j.key, count(*), sum(length(j.value))
    FROM item, json_each(item.doc) AS j WHERE item.id % 50 = 0 GROUP BY j.key ORDER BY j.key;
SELECT 'group', json_group_array(x) FROM (SELECT DISTINCT grp AS x FROM item ORDER BY grp LIMIT 40);
SELECT 'concat', length(group_concat(name, ';')) FROM item;
SELECT 'window', grp, id, rank, round(running, 3), before FROM (
    SELECT grp, id, row_number() OVER w AS rank, sum(weight) OVER w AS running, lag(name, 2, '-') OVER w AS before
    FROM item WINDOW w AS (PARTITION BY grp ORDER BY weight, id))
    WHERE rank <= 3 AND grp % 100 = 0 ORDER BY grp, rank;
SELECT 'ntile', bucket, count(*), min(id), max(id)
    FROM (SELECT id, ntile(16) OVER (ORDER BY name, id) AS bucket FROM item) GROUP BY bucket ORDER BY bucket;
SELECT 'join', count(*), sum(a.id) FROM item AS a JOIN item AS b ON b.id = (a.id * 7919) % $rows + 1 WHERE a.grp < b.grp;
DELETE FROM item WHERE id % 3 = 0;
UPDATE item SET doc = json_set(doc, '\$.text', upper(json_extract(doc, '\$.text')), '\$.moved', json('true')) WHERE grp < 400;
SAVEPOINT undo;
DELETE FROM item WHERE grp > 100;
SELECT 'in savepoint', count(*) FROM item;
ROLLBACK TO undo;
RELEASE undo;
SELECT 'after rollback', count(*) FROM item;
SELECT 'totals', count(*), sum(n), sum(bytes), (SELECT sum(length(doc)) FROM item) FROM total;
SELECT 'audit', count(*), sum(length(what)) FROM audit;
SELECT 'sorted', id, name FROM item ORDER BY name DESC, id LIMIT 20 OFFSET 5000;
EOF
    if [[ $with_fts5 == yes ]]; then
        cat << EOF
CREATE VIRTUAL TABLE words USING fts5 (body, tokenize = 'porter unicode61', prefix = '2 3');
BEGIN;
INSERT INTO words (rowid, body)
    SELECT id, name || ' group ' || grp || ' running runners run ' || json_extract(doc, '\$.tags[2]')
    FROM item WHERE id % 3 = 1;
COMMIT;
INSERT INTO words (words) VALUES ('optimize');
SELECT 'match', count(*) FROM words WHERE words MATCH 'run AND tag7';
SELECT 'rank', rowid, round(bm25(words), 6) FROM words WHERE words MATCH 'tag3 group' ORDER BY bm25(words), rowid LIMIT 10;
SELECT 'snippet', snippet(words, 0, '[', ']', '..', 6) FROM words WHERE words MATCH '"group 5" OR it*' ORDER BY rowid LIMIT 5;
INSERT INTO words (words) VALUES ('integrity-check');
EOF
    fi
    cat << EOF
PRAGMA wal_checkpoint(TRUNCATE);
PRAGMA journal_mode = DELETE;
VACUUM;
PRAGMA integrity_check;
EOF
}

with_fts5=no
if sqlite3 :memory: 'CREATE VIRTUAL TABLE t USING fts5 (a)' 2> /dev/null; then with_fts5=yes; fi
echo "   full-text index: $with_fts5"

# Runs script.sql in a fresh database NAME.db, whose output goes to NAME.out.
run_script() { # on_hakmem|on_system NAME
    local where=$1 name=$2
    rm -f "$name.db"
    "$where" sqlite3 "$name.db" < script.sql > "$name.out" 2> "$name.err" || {
        cat "$name.err"
        fail "sqlite3 ended with status $? ($name)"
    }
    assert_no_report "$name.err"
    assert_same /dev/null "$name.err"
}

step "the preload takes effect"
assert_runs_on_hakmem sqlite3 :memory: 'SELECT length(group_concat(hex(randomblob(1000)))) FROM pragma_function_list'

step "300,000 rows"
write_script 300000 > script.sql
run_script on_system system
run_script on_hakmem hakmem
assert_same system.out hakmem.out
assert_same system.db hakmem.db
assert_line "rows|300000" hakmem.out
assert_line "after rollback|200000" hakmem.out
assert_line "ok" hakmem.out

step "20,000 rows on every profile"
write_script 20000 > script.sql
run_script on_system small
assert_line "rows|20000" small.out
for profile in "${profiles[@]}"; do
    export HAKMEM_TINY_PROFILE=$profile
    run_script on_hakmem "$profile"
    assert_same small.out "$profile.out"
    assert_same small.db "$profile.db"
done
echo "sqlite3: the same output and the same database"
