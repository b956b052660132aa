#!/bin/bash
# check_layers.sh - proves that includes only go down the layers of src/.
#
#   L1  a file in src/X includes by name of a layer only from X and the layers below it
#   L2  only src/os/ includes <sys/*.h>
#   L3  no file includes a .c file
#   L4  every directory of src/ is a layer, and no source lies outside of them
#
# Usage: check_layers.sh [ROOT]     ROOT has the directory src/; the default is this repository.
# Without an argument the check is first tried on made-up trees that break each rule, since a check that never fails
# proves nothing.
set -euo pipefail

LAYERS="base os meta service superslab pool front api"

# Prints one line for each breach of a rule below the directory $1.
breaches() {
    local src=$1/src
    find "$src" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sort | while read -r directory; do
        [[ " $LAYERS " == *" $directory "* ]] || echo "L4: src/$directory is not a layer"
    done
    find "$src" -name '*.[ch]' | sort | while read -r file; do
        awk -v path="${file#"$src"/}" -v layers="$LAYERS" '
            BEGIN {
                n = split(layers, name, " ")
                for (i = 1; i <= n; i++) rank[name[i]] = i
                own = path
                if (!sub("/.*", "", own)) print "L4: src/" path " lies in no layer"
            }
            /^[ \t]*#[ \t]*include/ {
                where = "src/" path ":" FNR ": "
                target = $0
                sub(/^[ \t]*#[ \t]*include[ \t]*/, "", target)
                quoted = (substr(target, 1, 1) == "\"")
                system_header = (substr(target, 1, 1) == "<")
                if (!quoted && !system_header) { print "L1: " where "the name of the file cannot be seen"; next }
                target = substr(target, 2)
                sub(/[>"].*/, "", target)
                if (target ~ /\.c$/) print "L3: " where target
                if (target ~ /^sys\// && own != "os") print "L2: " where target
                if (target ~ /\.\./) print "L1: " where target " leaves its directory"
                if (!quoted || target !~ /\//) next
                layer = target
                sub("/.*", "", layer)
                if (layer == "hakmem") next
                if (!(layer in rank)) print "L1: " where target " is in no layer"
                else if (rank[layer] > rank[own]) print "L1: " where target " lies above " own
            }' "$file"
    done
}

# The check itself must find a breach of rule $1 in a tree whose file $2 holds the line $3.
must_find() {
    local tree
    tree=$(mktemp -d)
    mkdir -p "$tree/src/$(dirname "$2")"
    printf '%s\n' "$3" > "$tree/src/$2"
    if [[ $1 == nothing ]]; then
        if [[ -n $(breaches "$tree") ]]; then echo "the check refuses: $3 in $2"; exit 1; fi
    elif ! breaches "$tree" | grep "^$1:" > /dev/null; then
        echo "the check does not find: $3 in $2"
        exit 1
    fi
    rm -rf "$tree"
}

if [[ $# -eq 0 ]]; then
    must_find L1 pool/x.c '#include "front/magazine.h"'
    must_find L1 meta/x.h '#  include "service/config.h"  // why'
    must_find L1 pool/x.c '#include "../front/magazine.h"'
    must_find L1 pool/x.c '#include "tools/x.h"'
    must_find L1 pool/x.c '#include HEADER'
    must_find L2 meta/x.c '#include <sys/mman.h>'
    must_find L3 front/x.c '#include "flush.c"'
    must_find L4 extra/x.c 'int x;'
    must_find nothing pool/x.c '#include "pool/tier.h"'
    must_find nothing pool/x.c '#include "tier.h"'
    must_find nothing api/x.c '#include "base/base.h"'
    must_find nothing api/x.c '#include "hakmem/hakmem.h"'
    must_find nothing os/x.c '#include <sys/mman.h>'
    must_find nothing front/x.c '#include <pthread.h>'
fi

root=${1:-${HAKMEM_SOURCE_DIR:-$(dirname "${BASH_SOURCE[0]}")/../..}}
found=$(breaches "$root")
if [[ -n $found ]]; then
    echo "$found"
    exit 1
fi
echo "layers: $(find "$root/src" -name '*.[ch]' | wc -l) files keep the order $LAYERS"
