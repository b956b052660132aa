#!/bin/bash
# real_php.sh - php on hakmem. It opens its extensions with RTLD_DEEPBIND, which gives them libc's malloc beside the program's.
#
# The output under the system's malloc is the answer, and parts of it are known beforehand.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require php

cat > work.php << 'EOF'
<?php
$n = (int)$argv[1];
$rows = [];
for ($i = 0; $i < $n; $i++)
    $rows["key $i"] = ["id" => $i, "name" => str_repeat(chr(97 + $i % 26), $i % 200), "tags" => range(0, $i % 7)];
for ($round = 0; $round < 3; $round++)
    $rows = json_decode(json_encode($rows), true);
uasort($rows, fn($a, $b) => [strlen($a["name"]), -$a["id"]] <=> [strlen($b["name"]), -$b["id"]]);
echo count($rows), " ", array_key_first($rows), " ", md5(serialize($rows)), "\n";
$text = implode("\n", array_map(fn($row) => $row["id"] . ":" . $row["name"], $rows));
echo preg_match_all('/(\d+):(b+)\b/', $text, $found), " ", strlen(preg_replace('/a+/', 'xyz', $text)), "\n";
echo strlen(gzuncompress(gzcompress($text))) === strlen($text) ? "same" : "different", "\n";
$handle = fopen("php://temp", "w+");
foreach ($rows as $row)
    fputcsv($handle, [$row["id"], $row["name"]]);
rewind($handle);
for ($lines = 0; fgetcsv($handle) !== false; $lines++);
echo "lines $lines\n";
$pdo = class_exists("PDO") ? count(PDO::getAvailableDrivers()) : -1; /* an extension of many names */
echo $pdo >= 0 ? "pdo\n" : "no pdo\n";
ini_set("memory_limit", "512M");
try {
    $big = str_repeat("x", 20 << 20);
    echo strlen($big), "\n";
} finally {
    echo "peak ", memory_get_peak_usage() > 20 << 20 ? "large" : "small", "\n";
}
EOF
step "extensions are opened"
on_hakmem php -m > modules || fail "php -m ends with status $?"
[[ $(grep -cE '^[a-zA-Z]' modules) -gt 15 ]] || fail "few modules: $(cat modules)"

step "a script"
on_system php work.php 20000 > expected
on_hakmem php work.php 20000 > out 2> err || fail "status $?: $(cat err)"
assert_same expected out
assert_same /dev/null err
[[ $(head -c 6 out) == "20000 " && $(tail -n 1 out) == "peak large" ]] || fail "not the answer that is known: $(cat out)"

step "with malloc for each block of php's own, and hardened"
for variables in USE_ZEND_ALLOC=0 "USE_ZEND_ALLOC=0 HAKMEM_SECURE=1" HAKMEM_SECURE=1; do
    # shellcheck disable=SC2086 # one or two assignments
    env $variables LD_PRELOAD="$HAKMEM_LIB" php work.php 3000 > out 2> err || fail "status $? with $variables: $(cat err)"
    on_system php work.php 3000 > expected
    [[ $(head -n 5 out) == "$(head -n 5 expected)" ]] || fail "another answer with $variables: $(cat out)"
    assert_same /dev/null err
done
