/* operators.cc - all twenty forms of operator new and delete: alignment, contents, failure with and without a
 * new_handler, exceptions, and the containers of the standard library in several threads.
 */
#include "check.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include <sys/resource.h>

extern "C" size_t malloc_usable_size(void *block) noexcept;

// Compilers declare the sized forms only when they use them by themselves, which clang must be told to.
void operator delete(void *block, std::size_t size) noexcept;
void operator delete[](void *block, std::size_t size) noexcept;
void operator delete(void *block, std::size_t size, std::align_val_t alignment) noexcept;
void operator delete[](void *block, std::size_t size, std::align_val_t alignment) noexcept;

namespace {

using std::align_val_t;
using std::nothrow;
using std::size_t;

// The eight forms of new, as functions of size and alignment. The plain ones ignore the alignment.
struct NewForm {
    const char *name;
    void *(*allocate)(size_t, size_t);
    bool takes_alignment, throws, is_array;
};

const NewForm new_forms[] = {
    {"new", [](size_t n, size_t) { return operator new(n); }, false, true, false},
    {"new[]", [](size_t n, size_t) { return operator new[](n); }, false, true, true},
    {"new nothrow", [](size_t n, size_t) { return operator new(n, nothrow); }, false, false, false},
    {"new[] nothrow", [](size_t n, size_t) { return operator new[](n, nothrow); }, false, false, true},
    {"new aligned", [](size_t n, size_t a) { return operator new(n, align_val_t(a)); }, true, true, false},
    {"new[] aligned", [](size_t n, size_t a) { return operator new[](n, align_val_t(a)); }, true, true, true},
    {"new aligned nothrow", [](size_t n, size_t a) { return operator new(n, align_val_t(a), nothrow); }, true, false,
     false},
    {"new[] aligned nothrow", [](size_t n, size_t a) { return operator new[](n, align_val_t(a), nothrow); }, true,
     false, true},
};

// The twelve forms of delete.
struct DeleteForm {
    const char *name;
    void (*release)(void *, size_t, size_t);
    bool takes_alignment, is_array;
};

const DeleteForm delete_forms[] = {
    {"delete", [](void *p, size_t, size_t) { operator delete(p); }, false, false},
    {"delete[]", [](void *p, size_t, size_t) { operator delete[](p); }, false, true},
    {"delete nothrow", [](void *p, size_t, size_t) { operator delete(p, nothrow); }, false, false},
    {"delete[] nothrow", [](void *p, size_t, size_t) { operator delete[](p, nothrow); }, false, true},
    {"delete sized", [](void *p, size_t n, size_t) { operator delete(p, n); }, false, false},
    {"delete[] sized", [](void *p, size_t n, size_t) { operator delete[](p, n); }, false, true},
    {"delete aligned", [](void *p, size_t, size_t a) { operator delete(p, align_val_t(a)); }, true, false},
    {"delete[] aligned", [](void *p, size_t, size_t a) { operator delete[](p, align_val_t(a)); }, true, true},
    {"delete sized aligned", [](void *p, size_t n, size_t a) { operator delete(p, n, align_val_t(a)); }, true, false},
    {"delete[] sized aligned", [](void *p, size_t n, size_t a) { operator delete[](p, n, align_val_t(a)); }, true,
     true},
    {"delete aligned nothrow", [](void *p, size_t, size_t a) { operator delete(p, align_val_t(a), nothrow); }, true,
     false},
    {"delete[] aligned nothrow", [](void *p, size_t, size_t a) { operator delete[](p, align_val_t(a), nothrow); }, true,
     true},
};

const size_t sizes[] = {0,    1,    7,    8,    9,    16,   24,    40,    64,    100,   500,    1000,
                        1024, 1025, 3000, 4096, 5000, 9000, 20000, 32768, 32769, 70000, 300000, 1048576};

// ---- The forms ------------------------------------------------------------------------------------------------------

void test_pair(const NewForm &form, const DeleteForm &release)
{
    unsigned n_astray = 0;
    for (size_t alignment = form.takes_alignment ? 1 : 16; alignment <= (form.takes_alignment ? 4096 : 16);
         alignment *= 2)
        for (size_t n : sizes) {
            void *block[3];
            for (size_t i = 0; i < 3; i++) {
                block[i] = form.allocate(n, alignment);
                CHECK_THAT(block[i] != nullptr, "%s of %zu bytes fails", form.name, n);
                size_t wanted = std::max<size_t>(alignment, n <= 8 ? 8 : 16);
                if (!form.takes_alignment)
                    wanted = n <= 8 ? 8 : 16;
                if (reinterpret_cast<uintptr_t>(block[i]) % wanted != 0 && n_astray++ < 3)
                    CHECK_FAIL("%s of %zu bytes on %zu gives %p", form.name, n, alignment, block[i]);
                CHECK(malloc_usable_size(block[i]) >= n);
                check_fill(block[i], n, i + 1);
            }
            CHECK_THAT(block[0] != block[1] && block[1] != block[2], "%s of %zu bytes gives one block twice", form.name,
                       n);
            for (size_t i = 0; i < 3; i++) {
                CHECK_THAT(check_filled(block[i], n, i + 1), "%s: blocks of %zu bytes overlap", form.name, n);
                release.release(block[i], n, alignment);
            }
        }
    release.release(nullptr, 0, 16);
}

void test_forms()
{
    for (const NewForm &form : new_forms)
        for (const DeleteForm &release : delete_forms)
            if (form.takes_alignment == release.takes_alignment && form.is_array == release.is_array)
                test_pair(form, release);
}

// ---- Failure --------------------------------------------------------------------------------------------------------

const size_t huge_sizes[] = {PTRDIFF_MAX,   size_t(PTRDIFF_MAX) + 1, SIZE_MAX,
                             SIZE_MAX - 15, SIZE_MAX - 4095,         size_t(1) << 60};

enum Outcome { BLOCK, NULL_RESULT, BAD_ALLOC, OTHER_EXCEPTION };

struct Gave_up {};

Outcome outcome_of(const NewForm &form, size_t n, size_t alignment)
{
    try {
        void *block = form.allocate(n, alignment);
        if (block == nullptr)
            return NULL_RESULT;
        free(block); // any function of the family takes it
        return BLOCK;
    } catch (const std::bad_alloc &) {
        return BAD_ALLOC;
    } catch (...) {
        return OTHER_EXCEPTION;
    }
}

void test_huge()
{
    for (const NewForm &form : new_forms)
        for (size_t n : huge_sizes)
            for (size_t alignment : {size_t(16), size_t(64), size_t(4096)}) {
                Outcome outcome = outcome_of(form, n, alignment);
                CHECK_THAT(outcome == (form.throws ? BAD_ALLOC : NULL_RESULT), "%s of %zu bytes: outcome %d", form.name,
                           n, outcome);
            }
    volatile size_t many = SIZE_MAX / 4;
    // the compiler's own check of an array's length
    try {
        double *volatile array = new double[many]; // which the compiler must not take for unused
        delete[] array;
        CHECK_FAIL("an array that is too long is allocated");
    } catch (const std::bad_alloc &) {
    }
    try {
        std::vector<int> ints;
        ints.reserve(ints.max_size());
        int *volatile first = ints.data(); // likewise
        (void)first;
        CHECK_FAIL("a vector of the greatest size is allocated");
    } catch (const std::bad_alloc &) {
    }
    try {
        std::string text(size_t(1) << 61, 'x');
        CHECK_FAIL("a string of 2^61 bytes is allocated");
    } catch (const std::bad_alloc &) {
    }
}

// ---- The new_handler ------------------------------------------------------------------------------------------------

int n_calls;

void uninstall_at_third_call()
{
    if (++n_calls == 3)
        std::set_new_handler(nullptr);
}

void throw_bad_alloc()
{
    n_calls++;
    throw std::bad_alloc();
}

void throw_something_else()
{
    n_calls++;
    throw Gave_up();
}

void throw_at_fourth_call()
{
    if (++n_calls == 4)
        throw std::bad_alloc();
}

void test_handler_is_repeated()
{
    for (const NewForm &form : new_forms) {
        n_calls = 0;
        std::set_new_handler(uninstall_at_third_call);
        Outcome outcome = outcome_of(form, SIZE_MAX / 2 + 100, 64);
        CHECK_THAT(n_calls == 3, "%s: the new_handler is called %d times, not 3", form.name, n_calls);
        CHECK_THAT(outcome == (form.throws ? BAD_ALLOC : NULL_RESULT), "%s: outcome %d", form.name, outcome);
        n_calls = 0;
        std::set_new_handler(uninstall_at_third_call);
        CHECK_THAT(outcome_of(form, 100, 64) == BLOCK && n_calls == 0, "%s: the new_handler is called without need",
                   form.name);
        std::set_new_handler(nullptr);
    }
}

// The throwing forms let the handler's exception out; the others catch it and return NULL: [new.delete.single].
void test_handler_throws()
{
    struct Row {
        std::new_handler handler;
        int n_calls;
        Outcome throwing;
    };
    const Row rows[] = {{throw_bad_alloc, 1, BAD_ALLOC},
                        {throw_at_fourth_call, 4, BAD_ALLOC},
                        {throw_something_else, 1, OTHER_EXCEPTION}};
    for (const NewForm &form : new_forms)
        for (const Row &row : rows) {
            // A child: an exception that leaves a noexcept function ends the process.
            pid_t pid = fork();
            REQUIRE(pid >= 0);
            if (pid == 0) {
                check_n_failures = 0;
                n_calls = 0;
                std::set_new_handler(row.handler);
                Outcome outcome = outcome_of(form, SIZE_MAX / 2 + 100, 64);
                Outcome wanted = form.throws ? row.throwing : NULL_RESULT;
                CHECK_THAT(outcome == wanted, "%s: the handler throws: outcome %d, not %d", form.name, outcome, wanted);
                CHECK_THAT(n_calls == row.n_calls, "%s: the new_handler is called %d times", form.name, n_calls);
                std::set_new_handler(nullptr);
                // The allocator is as good as before: nothing was left locked or half done.
                for (size_t n : sizes)
                    delete[] new char[n];
                _exit(check_n_failures == 0 ? 0 : 1);
            }
            check_wait(pid, form.name);
        }
}

// A handler that frees a reserve makes the request succeed, which the limit on memory had refused.
std::vector<char *> *reserve;

void free_reserve()
{
    n_calls++;
    for (char *block : *reserve)
        delete[] block;
    reserve->clear();
    std::set_new_handler(nullptr);
}

void test_handler_makes_room()
{
    for (const NewForm &form : new_forms) {
        pid_t pid = fork();
        REQUIRE(pid >= 0);
        if (pid == 0) {
            check_n_failures = 0;
            rlimit limit = {64 * CHECK_MIB, 64 * CHECK_MIB};
            REQUIRE(setrlimit(RLIMIT_DATA, &limit) == 0);
            reserve = new std::vector<char *>;
            for (unsigned i = 0; i < 16; i++)
                reserve->push_back(new char[CHECK_MIB]);
            std::set_new_handler(free_reserve);
            n_calls = 0;
            unsigned n = 0;
            while (n < 1000 && n_calls == 0) {
                void *block = form.allocate(CHECK_MIB, 64);
                CHECK_THAT(block != nullptr, "%s fails while the handler can make room", form.name);
                check_fill(block, CHECK_MIB, n++);
            }
            CHECK_THAT(n_calls == 1, "%s: under a limit the new_handler is called %d times", form.name, n_calls);
            _exit(check_n_failures == 0 ? 0 : 1);
        }
        check_wait(pid, form.name);
    }
}

// ---- Containers -----------------------------------------------------------------------------------------------------

struct alignas(256) Wide {
    char bytes[300];
};

void use_containers(unsigned seed)
{
    uint64_t state = seed;
    std::map<uint64_t, std::string> tree;
    std::unordered_map<std::string, std::vector<uint64_t>> table;
    std::vector<std::unique_ptr<Wide>> wide;
    unsigned n_astray = 0;
    for (unsigned i = 0; i < 4000; i++) {
        uint64_t key = check_random(&state) % 900;
        std::string text(check_random_size(&state, 11), static_cast<char>('a' + key % 26));
        tree[key] = text;
        table[std::to_string(key)].push_back(key);
        if (i % 3 == 0)
            tree.erase(check_random(&state) % 900);
        if (i % 5 == 0) {
            wide.push_back(std::make_unique<Wide>());
            n_astray += reinterpret_cast<uintptr_t>(wide.back().get()) % 256 != 0;
            check_fill(wide.back()->bytes, sizeof wide.back()->bytes, key);
        }
        if (i % 400 == 399)
            wide.clear();
    }
    CHECK_THAT(n_astray == 0, "%u of 800 objects that want to lie on 256 do not", n_astray);
    for (const auto &entry : tree)
        CHECK(entry.second.find_first_not_of(static_cast<char>('a' + entry.first % 26)) == std::string::npos);
    for (const auto &entry : table)
        for (uint64_t key : entry.second)
            CHECK(std::to_string(key) == entry.first);
}

// Exceptions are allocated too, also when thrown in many threads at once.
void throw_and_catch(unsigned seed)
{
    unsigned n_caught = 0;
    for (unsigned i = 0; i < 3000; i++) {
        try {
            if (i % 2 == 0)
                throw std::string(i % 500 + seed, 'e');
            operator delete(operator new(SIZE_MAX - i));
        } catch (const std::string &text) {
            n_caught += text.size() == i % 500 + seed;
        } catch (const std::bad_alloc &) {
            n_caught++;
        }
    }
    CHECK_THAT(n_caught == 3000, "%u of 3000 exceptions arrive", n_caught);
}

void test_threads()
{
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 8; i++)
        threads.emplace_back([i] {
            use_containers(i + 1);
            throw_and_catch(i);
        });
    for (std::thread &thread : threads)
        thread.join();
}

} // namespace

int main()
{
    check_on_hakmem();
    const void *own_new = dlsym(RTLD_DEFAULT, "_Znwm");
    CHECK_THAT(own_new != nullptr && check_same_library(own_new, dlsym(RTLD_DEFAULT, "hak_version")),
               "operator new is not hakmem's");
    test_forms();
    test_huge();
    test_handler_is_repeated();
    test_handler_throws();
    test_handler_makes_room();
    test_threads();
    return check_status();
}
