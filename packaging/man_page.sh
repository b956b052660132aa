#!/bin/sh
# man_page.sh - writes the manual page hakmem(1), out of what the command says of itself.
#
# Usage: man_page.sh COMMAND > hakmem.1        with COMMAND the built hakmem
#
# So nothing is told twice. The texts keep their lines: their columns are made by spaces.
set -eu
export LC_ALL=C.UTF-8
command=$1

# The text as it is, lest roff takes any of it for its own.
as_it_is() {
    printf '.nf\n'
    sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/^\([.']\)/\\\\\&\1/"
    printf '.fi\n'
}

version=$("$command" --version | sed -n '1s/^hakmem \([0-9.]*\).*/\1/p')
general=$("$command" --help)
commands=$(printf '%s\n' "$general" | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p')
if [ -z "$version" ] || [ -z "$commands" ]; then
    echo "man_page.sh: '$command' does not name its version or its commands" >&2
    exit 1
fi

printf '.TH HAKMEM 1 "" "hakmem %s" "User Commands"\n' "$version"
printf '.SH NAME\nhakmem \\- start a program on the hakmem allocator, and look into its heap while it runs\n'
printf '.SH DESCRIPTION\n'
printf '%s\n' "$general" | as_it_is
for name in $commands; do
    if [ "$name" != help ]; then
        text=$("$command" "$name" --help)
        printf '.SH HAKMEM %s\n' "$(printf %s "$name" | tr '[:lower:]' '[:upper:]')"
        printf '%s\n' "$text" | as_it_is
    fi
done
variables=$("$command" help variables)
printf '.SH ENVIRONMENT\nThe library reads these once, when a process starts.\n.PP\n'
printf '%s\n' "$variables" | as_it_is
