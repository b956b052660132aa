#!/bin/bash
# profile_debug_info.sh - hakmem profile names what the debug information knows, whatever wrote it: gcc and clang, with and without
# link-time optimisation, in full, little, or split off; C++ in namespaces, local classes; and debug information that comes after the profile.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
hakmem=$HAKMEM_BUILD_DIR/hakmem
require g++ clang++ objcopy strip

cat > program.cc << 'END'
#include <string>
#include <vector>
namespace outer {
namespace {
struct keeper {
    std::vector<std::string> all;
    void add(int n) { all.push_back(std::string(5000 + n % 7, 'x')); }
};
} // namespace
void work(int n)
{
    static keeper &kept = *new keeper; // lives when the profile is written
    static std::vector<char *> more;
    struct local {
        __attribute__((noinline)) static char *get(int n)
        {
            char *block = new char[3000 + n % 7];
            block[0] = 1; // no tail call
            return block;
        }
    };
    kept.add(n);
    more.push_back(local::get(n));
}
} // namespace outer
int main()
{
    for (int i = 0; i < 2000; i++)
        outer::work(i);
}
END

# Leaves a profile in FILE.
sample() { # PROGRAM FILE
    on_hakmem HAKMEM_PROFILE="$PWD/$2" HAKMEM_PROFILE_INTERVAL=4096 "./$1"
    [[ -s $2 ]] || fail "$1 has written no profile"
}
leaks() { "$hakmem" profile -f leaks -t 0 "$@"; }

# A line of file "listed": a function and its place. The numbers are those of program.cc.
assert_frame() { # FUNCTION LINE
    grep -qE "^    $1  .*program\.cc:$2\$" listed || { head -n 40 listed; fail "$way: no frame $1 at line $2"; }
}

n=0
for way in "g++ -O2 -g" "g++ -O0 -g" "g++ -O2 -g -flto" "g++ -O0 -g1" "g++ -O2 -g -gsplit-dwarf" "g++ -O2 -gdwarf-4 -gsplit-dwarf" \
    "clang++ -O2 -g" "clang++ -O0 -g" "clang++ -O0 -gline-tables-only" "clang++ -O2 -g -gsplit-dwarf"; do
    step "$way"
    n=$((n + 1))
    $way -o program$n program.cc
    sample program$n profile$n
    leaks profile$n > listed
    assert_frame 'outer::\(anonymous namespace\)::keeper::add' 7
    assert_frame 'outer::work::local::get' 17
    assert_frame 'outer::work' 22
    assert_frame 'outer::work' 23
    assert_frame main 29
done

step "a profile without debug information, which comes later"
way=stripped
g++ -O2 -g -rdynamic -o whole program.cc
cp whole later
strip later
sample later later.heap
"$hakmem" profile -o later.pb.gz later.heap
leaks later.pb.gz > listed
grep -q '^    outer::work$' listed || { head -n 40 listed; fail "no name by the dynamic symbols"; }
if grep -q 'program\.cc' listed; then fail "a stripped program has lines"; fi
objcopy --only-keep-debug whole whole.debug
objcopy --add-gnu-debuglink=whole.debug later
leaks later.pb.gz > listed 2> said
assert_frame 'outer::work' 23
assert_frame main 29
[[ ! -s said ]] || fail "it says: $(cat said)"

step "what is no plain file, where debug information is looked for, is not waited for"
# elfutils would look beside the program, and in .debug, for what .gnu_debuglink names, or else by the program's own name; and again where
# a symbolic link leads to.
mkdir -p .debug links
mv whole.debug kept.debug
cp later linked
strip -R .gnu_debuglink -o unlinked later
ln -s ../later links/later
sed "s:$PWD/later\$:$PWD/links/later:" later.heap > by_link.heap
grep -q links/later by_link.heap || fail "the profile has another path of the program: $(tail -n 5 by_link.heap)"
for way in linked:whole.debug linked:.debug/whole.debug unlinked:later.debug unlinked:.debug/later.debug unlinked:.debug/later; do
    cp "${way%:*}" later
    mkfifo "${way#*:}"
    for profile in later.heap by_link.heap; do
        timeout 30 "$hakmem" profile -f leaks -t 0 $profile > listed 2> said || fail "$way, $profile: status $?: $(cat said)"
        grep -q '^    outer::work$' listed || { head -n 40 listed; fail "$way, $profile: no name by the dynamic symbols"; }
    done
    rm "${way#*:}"
done
cp linked later
mv kept.debug whole.debug

step "names that are there are enough where the program is gone"
rm later whole
"$hakmem" profile -f leaks later.heap > /dev/null 2> said
grep -q 'later' said || fail "nothing is said of a program that is gone: $(cat said)"
leaks later.pb.gz > listed 2> said
grep -q '^    outer::work$' listed || fail "the names are gone"

echo "profile_debug_info: functions and lines, by debug information of each kind"
