// real_gxx.cc - what bench.py has the C++ compiler compile: large headers, and templates of its own.
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <regex>
#include <string>
#include <unordered_map>
#include <vector>

template <typename Key, typename Value> class Index {
public:
    void add(const Key &key, Value value) { values_[key].push_back(std::move(value)); }

    std::vector<Value> sorted(const std::function<bool(const Value &, const Value &)> &before) const
    {
        std::vector<Value> all;
        for (const auto &[key, values] : values_)
            all.insert(all.end(), values.begin(), values.end());
        std::sort(all.begin(), all.end(), before);
        return all;
    }

private:
    std::map<Key, std::vector<Value>> values_;
};

template <int N> struct Fibonacci {
    static constexpr unsigned long long value = Fibonacci<N - 1>::value + Fibonacci<N - 2>::value;
};
template <> struct Fibonacci<1> {
    static constexpr unsigned long long value = 1;
};
template <> struct Fibonacci<0> {
    static constexpr unsigned long long value = 0;
};

int main()
{
    const std::regex word("([a-z]+)-([0-9]+)");
    Index<std::string, std::string> by_name;
    Index<std::size_t, std::string> by_length;
    std::unordered_map<std::string, std::vector<int>> numbers;
    for (std::string line; std::getline(std::cin, line);) {
        std::smatch match;
        if (!std::regex_match(line, match, word))
            continue;
        by_name.add(match[1], line);
        by_length.add(line.size(), line);
        numbers[match[1]].push_back(std::stoi(match[2]));
    }
    for (const std::string &line : by_name.sorted(std::less<std::string>()))
        std::cout << line << '\n';
    for (const std::string &line : by_length.sorted(std::greater<std::string>()))
        std::cout << line << '\n';
    std::cout << numbers.size() << ' ' << Fibonacci<90>::value << '\n';
}
