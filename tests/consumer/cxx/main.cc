/* main.cc - a C++ program of a user of the installed library: are its operators new and delete hakmem? */
#include <hakmem/hakmem.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <new>
#include <string>
#include <vector>

namespace {

constexpr std::size_t n_blocks = 2000;

std::uint64_t live_bytes()
{
    static hak_stats stats;
    if (hak_stats_get(&stats, sizeof stats) != 0)
        std::abort();
    return stats.live_bytes;
}

struct alignas(256) wide {
    char bytes[256];
};

/* The volatile size keeps the compiler from knowing that the request is hopeless. */
bool new_throws()
{
    volatile std::size_t hopeless = static_cast<std::size_t>(PTRDIFF_MAX) - 4096;
    try {
        std::unique_ptr<char[]> block(new char[hopeless]);
    } catch (const std::bad_alloc &) {
        return new (std::nothrow) char[hopeless] == nullptr;
    }
    return false;
}

} // namespace

int main()
{
    std::vector<std::unique_ptr<std::string>> strings;
    std::vector<std::unique_ptr<wide>> aligned;
    strings.reserve(n_blocks);
    aligned.reserve(n_blocks);

    const std::uint64_t before = live_bytes();
    for (std::size_t i = 0; i < n_blocks; i++) {
        strings.push_back(std::make_unique<std::string>(1000, 'x'));
        aligned.push_back(std::make_unique<wide>());
        if (reinterpret_cast<std::uintptr_t>(aligned.back().get()) % alignof(wide) != 0)
            return 1;
    }
    const std::uint64_t during = live_bytes();
    strings.clear();
    aligned.clear();
    const std::uint64_t after = live_bytes();

    const std::uint64_t expected = n_blocks * (1000 + sizeof(wide));
    if (during < before + expected || after + expected > during) {
        std::fprintf(stderr, "operator new is not hakmem: %llu live bytes, then %llu, then %llu\n",
                     static_cast<unsigned long long>(before), static_cast<unsigned long long>(during),
                     static_cast<unsigned long long>(after));
        return 1;
    }
    if (!new_throws()) {
        std::fputs("operator new does not throw std::bad_alloc\n", stderr);
        return 1;
    }
    std::printf("C++: %llu more live bytes with %zu blocks, and std::bad_alloc is thrown\n",
                static_cast<unsigned long long>(during - before), 2 * n_blocks);
    return 0;
}
