/* tls_objects.cc - C++ objects at the edges of life: thread_local objects whose destructors allocate, static
 * objects that are made before main and destroyed after it, and blocks that outlive their thread.
 */
#include "check.h"

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

unsigned n_destroyed;

/* Allocates when it is made, more when it is destroyed, and frees everything. */
class Hoarder {
public:
    explicit Hoarder(size_t n) : seed_(n)
    {
        for (size_t i = 0; i < n; i++)
            strings_.push_back(std::string(i * 13 % 700 + 1, static_cast<char>('a' + i % 26)));
    }
    ~Hoarder()
    {
        std::map<std::string, std::vector<char>> late;
        for (size_t i = 0; i < strings_.size(); i++) {
            CHECK(strings_[i] == std::string(i * 13 % 700 + 1, static_cast<char>('a' + i % 26)));
            late[strings_[i]].resize(i * 321 % 40000);
        }
        auto aligned = new (std::align_val_t(4096)) char[10000];
        check_fill(aligned, 10000, seed_);
        late.clear();
        CHECK(check_filled(aligned, 10000, seed_));
        operator delete[](aligned, std::align_val_t(4096));
        __atomic_add_fetch(&n_destroyed, 1, __ATOMIC_RELAXED);
    }
    Hoarder(const Hoarder &) = delete;
    Hoarder &operator=(const Hoarder &) = delete;
    size_t size() const { return strings_.size(); }

private:
    size_t seed_;
    std::vector<std::string> strings_;
};

thread_local Hoarder first_local(40);
thread_local std::unique_ptr<Hoarder> second_local;
thread_local std::string long_string;

Hoarder before_main(300);

/* Its destructor runs after that of before_main, because it is made before. */
struct Last {
    ~Last()
    {
        CHECK(n_destroyed > 0);
        delete[] new char[100000];
        if (check_n_failures != 0)
            _exit(1);
    }
};
Last last __attribute__((init_priority(101)));

void use_locals(std::vector<std::string> *out)
{
    CHECK(first_local.size() == 40);
    second_local.reset(new Hoarder(60));
    long_string.assign(100000, 'x');
    for (size_t i = 0; i < 200; i++)
        out->push_back(std::string(i * 97 % 3000, 'y'));
}

} // namespace

int main()
{
    check_on_hakmem();
    CHECK(before_main.size() == 300);
    const unsigned n_threads = 200;
    for (unsigned t = 0; t < n_threads; t++) {
        std::vector<std::string> strings;
        std::thread thread(use_locals, &strings);
        thread.join();
        CHECK(strings.size() == 200);
        for (size_t i = 0; i < strings.size(); i++)
            CHECK(strings[i] == std::string(i * 97 % 3000, 'y'));
    }
    CHECK_THAT(n_destroyed == 2 * n_threads, "%u objects of threads were destroyed", n_destroyed);
    std::vector<std::string> strings;
    use_locals(&strings); /* the main thread's own, destroyed on the way out */
    return check_status();
}
