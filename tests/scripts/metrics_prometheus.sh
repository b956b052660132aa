#!/bin/bash
# metrics_prometheus.sh - Prometheus reads `hakmem metrics --listen`: it takes the format, has the values, and sees the process end.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
# shellcheck source=tests/scripts/_inspected.sh
source "$HAKMEM_SOURCE_DIR/tests/scripts/_inspected.sh"
require prometheus promtool curl jq
start_inspected "scraped-$$"

"$hakmem" metrics --listen 127.0.0.1:0 --linger 600 "$inspected" > server.out 2> server.err & server=$!
started_pids+=("$server")
wait_for "the server" grep -qs '^Listening on ' server.out
url=$(sed -n 's/^Listening on //p' server.out)
target=${url#http://}
target=${target%/metrics}

# What docs/inspect.md has, with this server's port and a shorter interval.
cat > prometheus.yml << END
scrape_configs:
  - job_name: hakmem
    scrape_interval: 1s
    scrape_timeout: 1s
    static_configs:
      - targets: ["$target"]
END
promtool check config prometheus.yml > check.out 2>&1 || fail "promtool: $(cat check.out)"

# A port that is free now may be taken in a moment: then another.
start_prometheus() {
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    nice prometheus --config.file=prometheus.yml --storage.tsdb.path="$work/tsdb" --web.listen-address="127.0.0.1:$port" \
        --log.level=warn > prometheus.out 2>&1 & prometheus=$!
    started_pids+=("$prometheus")
    local i
    for ((i = 0; i < 600; i++)); do
        kill -0 "$prometheus" 2> /dev/null || return 1
        if curl -s -f --max-time 10 "http://127.0.0.1:$port/-/ready" > /dev/null; then return 0; fi
        sleep 0.1
    done
    fail "Prometheus is not ready: $(cat prometheus.out)"
}
started=
for _ in 1 2 3; do
    if start_prometheus; then started=yes; break; fi
done
[[ -n $started ]] || fail "Prometheus does not start: $(cat prometheus.out)"

# The value of an expression, or nothing.
query() {
    curl -s -G --max-time 10 --data-urlencode "query=$1" "http://127.0.0.1:$port/api/v1/query" |
        jq -r '.data.result[0].value[1] // empty'
}
query_is() { [[ $(query "$1") == "$2" ]]; }
query_gives() { [[ -n $(query "$1") ]]; }

step "Prometheus scrapes"
wait_for "a first scrape" query_is 'up{job="hakmem"}' 1
curl -s --max-time 10 "http://127.0.0.1:$port/api/v1/targets" > targets
jq -e '.data.activeTargets | length == 1 and .[0].health == "up" and .[0].lastError == ""' targets > /dev/null ||
    fail "the target: $(cat targets)"

step "it has the values"
query_is 'hakmem_class_blocks{class="64",state="live"} >= bool 20000' 1 || fail "$(query 'hakmem_class_blocks{class="64",state="live"}')"
query_is 'hakmem_class_live_bytes{class="run"}' $((4 << 20)) || fail "$(query 'hakmem_class_live_bytes{class="run"}')"
query_is 'hakmem_threads' 4 || fail "$(query hakmem_threads) threads"
query_is 'count({__name__=~"hakmem_.+"}) > bool 300' 1 || fail "$(query 'count({__name__=~"hakmem_.+"})') series"
wait_for "a rate" query_is 'rate(hakmem_refills_total[1m]) > bool 0' 1
curl -s --max-time 10 "http://127.0.0.1:$port/api/v1/metadata?metric=hakmem_purged_bytes" > metadata
jq -e '.data.hakmem_purged_bytes[0] | .type == "counter" and .unit == "bytes"' metadata > /dev/null ||
    fail "it was not read as OpenMetrics: $(cat metadata)"

step "the process ends: up is 0, and the series end"
stop_inspected
wait_for "up to be 0" query_is 'up{job="hakmem"}' 0
curl -s --max-time 10 "http://127.0.0.1:$port/api/v1/targets" | jq -e '.data.activeTargets[0].lastError | test("503")' > /dev/null ||
    fail "Prometheus was not answered 503"
query_is 'absent(hakmem_live_bytes)' 1 || fail "the series goes on"

kill -TERM "$server"
wait "$server" || fail "status $? of the server"
