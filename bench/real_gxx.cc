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
    Index<std::string, std::string> by_name;
    Index<std::size_t, std::string> by_length;
    Index<double, std::pair<int, std::string>> by_weight;
    std::unordered_map<std::string, std::vector<int>> numbers;
    for (std::string line; std::getline(std::cin, line);) {
        const std::size_t dash = line.find('-');
        if (dash == std::string::npos)
            throw std::regex_error(std::regex_constants::error_collate);
        const std::string name = line.substr(0, dash);
        const int number = std::stoi(line.substr(dash + 1));
        by_name.add(name, line);
        by_length.add(line.size(), line);
        by_weight.add(number / 8.0, {number, name});
        numbers[name].push_back(number);
    }
    for (const std::string &line : by_name.sorted(std::less<std::string>()))
        std::cout << line << '\n';
    for (const std::string &line : by_length.sorted(std::greater<std::string>()))
        std::cout << line << '\n';
    for (const auto &[number, name] : by_weight.sorted(std::less<std::pair<int, std::string>>()))
        std::cout << number << ' ' << name << '\n';
    std::cout << numbers.size() << ' ' << Fibonacci<90>::value << '\n';
}
