#!/bin/bash
# profile_libraries.sh - the heap profile and the program's libraries: what their constructors allocate is in it, what their destructors
# free is no leak, a plug-in that is replaced by another build has that one's stacks, and who asks for a profile while the dynamic
# linker's lock is held gets it later or not at all. With an interval of 1 byte every block is a sample, so numbers are exact.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/_profile.sh"
require "$HAKMEM_CXX"

leaks_of() { "$hakmem" profile "$1" --format leaks --top 0 2> leaks.err; }

step "constructors of libraries, which run before those of what is preloaded"
cat > first.cc << 'END'
#include <cstdlib>
#include <vector>
static std::vector<void *> blocks;
extern "C" __attribute__((noinline)) void *site_constructor(std::size_t n)
{
    void *p = std::malloc(n);
    __asm__ volatile("" : "+r"(p) : : "memory");
    return p;
}
static struct first {
    first()
    {
        for (int i = 0; i < 500; i++)
            blocks.push_back(site_constructor(1000));
    }
} first;
std::size_t count() { return blocks.size(); }
END
cat > main.cc << 'END'
#include <cstddef>
std::size_t count();
int main() { return count() == 500 ? 0 : 1; }
END
"$HAKMEM_CXX" -O1 -g -shared -fPIC -o libfirst.so first.cc
"$HAKMEM_CXX" -O1 -g -o main main.cc ./libfirst.so
"$HAKMEM_CXX" -O1 -g -o linked main.cc -Wl,--no-as-needed "$HAKMEM_LIB" ./libfirst.so "-Wl,-rpath,$(dirname "$HAKMEM_LIB")"
on_hakmem HAKMEM_PROFILE="$work/first.heap" HAKMEM_PROFILE_INTERVAL=1 ./main
HAKMEM_PROFILE=$work/linked.heap HAKMEM_PROFILE_INTERVAL=1 ./linked
for file in first.heap linked.heap; do
    n=$("$hakmem" profile $file --value alloc_objects --format folded 2> /dev/null | folded_sum /dev/stdin ";site_constructor")
    [[ $n -eq 500 ]] || fail "$file: $n of 500 blocks"
done

step "destructors of libraries, which run after those of what is preloaded"
cat > last.cc << 'END'
#include <cstdlib>
#include <vector>
static struct last {
    std::vector<void *> blocks;
    ~last()
    {
        for (void *block : blocks)
            std::free(block);
    }
} last;
void fill()
{
    for (int i = 0; i < 500; i++)
        last.blocks.push_back(std::malloc(1000));
}
void *leak() { return std::malloc(70000); }
END
cat > user.cc << 'END'
void fill();
void *leak();
void *volatile leaked;
int main() { fill(), leaked = leak(); }
END
"$HAKMEM_CXX" -O1 -g -shared -fPIC -o liblast.so last.cc
"$HAKMEM_CXX" -O1 -g -o user user.cc ./liblast.so
on_hakmem HAKMEM_PROFILE=report HAKMEM_PROFILE_INTERVAL=1 ./user 2> report
grep -q "70000 bytes in 1 blocks" report || fail "a leak is not told: $(cat report)"
if grep -q "in 500 blocks" report; then fail "what a destructor frees is told as a leak: $(cat report)"; fi
on_hakmem HAKMEM_PROFILE="$work/last.heap" HAKMEM_PROFILE_INTERVAL=1 ./user
leaks_of last.heap > leaks
grep -q "in 1 block" leaks || fail "$(cat leaks)"
if grep -q "in 500 blocks" leaks; then fail "what a destructor frees is live in the dump: $(cat leaks)"; fi

# Two builds of a plug-in that lie at the same place, return to the same addresses, and have frames of other lengths.
step "a plug-in is replaced by another build of it"
cat > plug.c << 'END'
#include <stdlib.h>
__attribute__((noinline)) static void *inner(unsigned n)
{
    volatile char room[ROOM];
    room[0] = 1;
    room[ROOM - 1] = 2;
    void *volatile p = malloc(n);
    room[1] = room[0];
    return p;
}
void *plug(unsigned n)
{
    void *volatile p = inner(n);
    return p;
}
END
cat > host.c << 'END'
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>
int main(void)
{
    const char *const build[] = {"plug1.so", "plug2.so"};
    for (int round = 0; round < 2; round++) {
        if (rename(build[round], "plugin.so") != 0)
            return 1;
        void *plugin = dlopen("./plugin.so", RTLD_NOW);
        void *(*plug)(unsigned) = plugin == NULL ? NULL : (void *(*)(unsigned))dlsym(plugin, "plug");
        if (plug == NULL)
            return 2;
        printf("%p\n", (void *)plug);
        for (int i = 0; i < 2000; i++)
            plug(1000);
        dlclose(plugin);
    }
    return 0;
}
END
"$HAKMEM_CC" -O1 -g -o host host.c -ldl
for build_id in sha1 none; do
    "$HAKMEM_CC" -O1 -w -shared -fPIC -DROOM=1000000 "-Wl,--build-id=$build_id" -o plug1.so plug.c
    "$HAKMEM_CC" -O1 -w -shared -fPIC -DROOM=20000 "-Wl,--build-id=$build_id" -o plug2.so plug.c
    on_hakmem HAKMEM_PROFILE="$work/plug.heap" HAKMEM_PROFILE_INTERVAL=1 ./host > place || fail "build id $build_id: status $?"
    [[ $(sort -u place | wc -l) -eq 1 ]] || echo "they do not lie at the same place: $(cat place)"
    n=$("$hakmem" profile plug.heap --value alloc_objects --format folded 2> /dev/null | folded_sum /dev/stdin "main;")
    [[ $n -ge 4000 ]] || fail "build id $build_id: $n of 4000 blocks have main in their stack"
done

step "the linker's lock is held while a profile is asked for, and for longer than the asker waits"
cat > slow.c << 'END'
#include <unistd.h>
__attribute__((constructor)) static void wait(void) { sleep(14); }
END
cat > loader.c << 'END'
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static void *work(void *unused)
{
    static void *kept[30000];
    for (unsigned k = 1;; k = k * 1664525 + 1013904223) {
        unsigned at = (k >> 8) % 30000;
        free(kept[at]);
        kept[at] = malloc(16 + (k >> 4) % 900);
        if (at % 1000 == 0)
            usleep(1000);
    }
    return unused;
}
int main(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, work, NULL);
    puts("ready");
    fflush(stdout);
    void *plugin = dlopen("./slow.so", RTLD_NOW);
    puts(plugin == NULL ? dlerror() : "loaded");
    fflush(stdout);
    pause();
}
END
"$HAKMEM_CC" -O1 -shared -fPIC -o slow.so slow.c
"$HAKMEM_CC" -O1 -g -o loader loader.c -ldl -pthread
env LD_PRELOAD="$HAKMEM_LIB" ./loader > loader.out &
pid=$!
started_pids+=("$pid")
for _ in $(seq 600); do grep -q ready loader.out && break; sleep 0.05; done
sleep 0.5
if "$hakmem" profile "$pid" --seconds 1 -o asked.pb.gz 2> asked.err; then
    echo "the lock was not held for long enough"
fi
for _ in $(seq 600); do grep -q loaded loader.out && break; sleep 0.05; done
grep -q loaded loader.out || fail "the loader: $(cat loader.out)"
sleep 1
"$hakmem" profile "$pid" --seconds 1 -o later.pb.gz 2> later.err || fail "after that it cannot be sampled: $(cat asked.err later.err)"
