#!/bin/bash
# real_compile.sh - gcc, g++, cmake and make on hakmem build the same bytes as on the system's malloc.
#
# First this project, configured by cmake and built by make with two jobs, every process on hakmem; then a C++ file
# heavy in templates and its optimisation at link time. gcc writes the same object for the same input at the same
# path, so each build happens at one path and is moved aside.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require gcc g++ cmake make tar

step "the preload takes effect, also in the compiler proper that gcc starts"
echo 'int main(void) { return 0; }' > proof.c
assert_runs_on_hakmem gcc -O2 -c -o proof.o proof.c
cc1=$(gcc -print-prog-name=cc1)
[[ -x $cc1 ]] || cc1=$(command -v "$cc1") || fail "gcc has no cc1"
assert_runs_on_hakmem "$cc1" -quiet -O2 -o proof.s proof.c
[[ $(stat_of peak_committed_bytes proof.json) -gt 2000000 ]] || fail "the compiler's data was not in hakmem's memory"

step "this project, by cmake and make -j2"
# A copy: the tree may be worked on meanwhile, and its build directory is large.
mkdir source
tar -C "$HAKMEM_SOURCE_DIR" --exclude=./build --exclude=./install --exclude=./.git -cf - . | tar -C source -xf -
build_project() { # on_hakmem|on_system NAME
    local where=$1 name=$2
    rm -rf build
    { "$where" cmake -G 'Unix Makefiles' -S source -B build -DCMAKE_C_COMPILER=gcc -DCMAKE_CXX_COMPILER=g++ \
            -DCMAKE_BUILD_TYPE=RelWithDebInfo -DHAKMEM_BUILD_TESTS=OFF \
        && "$where" make -C build -j2 hakmem_shared hakmem_static; } > "$name.log" 2>&1 || {
        grep -E -A 5 'rror' "$name.log" || tail -n 20 "$name.log"
        fail "the build ended with status $? ($name)"
    }
    assert_no_report "$name.log"
    # The products: objects, libraries; by content, with their paths.
    (cd build && find . -type f \( -name '*.o' -o -name '*.so*' -o -name '*.a' \) -print0 | sort -z | xargs -0 sha256sum) \
        > "$name.sums"
    mv build "build-$name"
}
build_project on_system system
build_project on_hakmem hakmem
assert_same system.sums hakmem.sums
n_objects=$(grep -c '\.o$' hakmem.sums)
[[ $n_objects -ge 10 ]] || fail "only $n_objects objects were built"
grep -q 'libhakmem\.so' hakmem.sums || fail "the build made no libhakmem.so"
# What was built on hakmem is itself a library that works.
HAKMEM_STATS="$work/built.json" LD_PRELOAD="$(find "$work/build-hakmem" -name libhakmem.so | head -n 1)" ls > /dev/null
assert_stats built.json

step "C++ full of templates"
cat > templates.cc << 'EOF'
#include <algorithm>
#include <array>
#include <functional>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>

template <std::size_t N> struct Key {
    std::array<int, N % 7 + 1> part{};
    bool operator<(const Key &other) const { return part < other.part; }
};

template <std::size_t N> long fill()
{
    std::map<Key<N>, std::vector<std::string>> words;
    for (int i = 0; i < 20; i++) {
        Key<N> key;
        key.part.fill(i * static_cast<int>(N) % 11);
        words[key].push_back(std::to_string(i));
    }
    return std::accumulate(words.begin(), words.end(), 0L, [](long sum, const auto &entry) {
        return sum + static_cast<long>(entry.second.size()) * (entry.first.part[0] + 1);
    });
}

template <std::size_t... N> long fill_all(std::index_sequence<N...>) { return (fill<N>() + ... + 0L); }

template <std::size_t N> struct Fibonacci {
    static constexpr unsigned long value = Fibonacci<N - 1>::value + Fibonacci<N - 2>::value;
};
template <> struct Fibonacci<0> { static constexpr unsigned long value = 0; };
template <> struct Fibonacci<1> { static constexpr unsigned long value = 1; };

using Value = std::variant<int, double, std::string, std::vector<int>, std::map<std::string, int>>;

static std::string show(const Value &value)
{
    return std::visit(
        [](const auto &v) -> std::string {
            using T = std::decay_t<decltype(v)>;
            std::ostringstream out;
            if constexpr (std::is_arithmetic_v<T>)
                out << std::setw(8) << std::setprecision(4) << v;
            else if constexpr (std::is_same_v<T, std::string>)
                out << std::quoted(v);
            else
                out << v.size();
            return out.str();
        },
        value);
}

int main()
{
    std::cout << "fill " << fill_all(std::make_index_sequence<16>()) << '\n';
    std::cout << "fibonacci " << Fibonacci<80>::value << '\n';
    for (const Value &value : {Value(42), Value(2.5), Value(std::string("a \"b\"")), Value(std::vector<int>(7)),
                               Value(std::map<std::string, int>{{"x", 1}, {"y", 2}})})
        std::cout << show(value) << '\n';
    const std::regex pattern(R"((\w+)@((?:\w+\.)+)(com|org|invalid))", std::regex::icase);
    const std::string text = "write to one@mail.example.com, two@example.ORG or three@a.b.c.invalid";
    for (std::sregex_iterator at(text.begin(), text.end(), pattern), end; at != end; ++at)
        std::cout << (*at)[1] << " at " << (*at)[2] << (*at)[3] << '\n';
    std::unordered_map<std::string, std::unique_ptr<std::tuple<int, std::optional<std::string>, std::set<long>>>> table;
    for (int i = 0; i < 1000; i++)
        table.emplace(std::to_string(i), std::make_unique<std::tuple<int, std::optional<std::string>, std::set<long>>>(
                                             i, i % 2 ? std::optional<std::string>("odd") : std::nullopt, std::set<long>{i, -i}));
    std::cout << "table " << std::count_if(table.begin(), table.end(), [](const auto &e) { return std::get<1>(*e.second).has_value(); })
              << '\n';
}
EOF
# With debugging information, and once more as an object for the optimiser at link time.
for options in "-O2 -g" "-O2 -flto -frandom-seed=1"; do
    for where in on_system on_hakmem; do
        # shellcheck disable=SC2086 # several options
        "$where" g++ -std=c++17 $options -c -o templates.o templates.cc 2> "$where.err" \
            || fail "g++ $options ended with status $? ($where): $(head -n 20 "$where.err")"
        assert_same /dev/null "$where.err"
        mv templates.o "$where.o"
    done
    assert_same on_system.o on_hakmem.o
done
step "link on hakmem, and run"
on_hakmem g++ -flto=2 -O2 -o templates on_hakmem.o 2> link.err || fail "the link failed: $(cat link.err)"
assert_no_report link.err
on_system ./templates > system.out
on_hakmem ./templates > hakmem.out
assert_same system.out hakmem.out
for line in "fibonacci 23416728348467685" '"a \"b\""' "two at example.ORG" "table 500"; do assert_line "$line" hakmem.out; done
echo "compile: $n_objects objects of this project and the templates are the same"
