/* test_names.c - C++ names as people read them.
 */
#include "names.h"
#include "tool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void tool_complain(const char *format, ...)
{
    (void)format;
} /* hakmem.c has it */

static const struct {
    const char *full, *shortened;
} rows[] = {
    {"main", "main"},
    {"helper.constprop.0", "helper.constprop.0"},
    {"app::cache::fill(int)", "app::cache::fill"},
    {"long* app::leak<long>(unsigned long)", "app::leak"},
    {"(anonymous namespace)::worker::run(std::vector<int, std::allocator<int> >&) const",
     "(anonymous namespace)::worker::run"},
    {"std::_Rb_tree_iterator<std::pair<int const, X> > std::_Rb_tree<int, Y<(a->b)>, std::less<int> >::_M_emplace_hint"
     "<std::tuple<> >(std::_Rb_tree_const_iterator<int>, std::tuple<>&&)",
     "std::_Rb_tree::_M_emplace_hint"},
    {"main::{lambda(int)#1}::operator()(int) const", "main::{lambda#1}::operator()"},
    {"main::<lambda(int)>::operator()", "main::{lambda}::operator()"},
    {"f(int) const::{lambda(char)#2}::operator()(char) const [clone .isra.0]", "f::{lambda#2}::operator()"},
    {"operator new(unsigned long)", "operator new"},
    {"operator new[](unsigned long, std::nothrow_t const&)", "operator new[]"},
    {"A::operator<(A const&) const", "A::operator<"},
    {"A::operator->() const", "A::operator->"},
    {"A::operator[](int)", "A::operator[]"},
    {"A operator+<int>(A, A)", "operator+"},
    {"std::ostream& std::operator<< <std::char_traits<char> >(std::ostream&, char const*)", "std::operator<<"},
    {"A::operator bool() const", "A::operator bool"},
    {"A::operator std::vector<int>() const", "A::operator std::vector"},
    {"a::operator\"\" _s(char const*)", "a::operator\"\" _s"},
    {"operatorx(int)", "operatorx"},
    {"std::function<void (int)>::operator()(int) const", "std::function::operator()"},
    {"std::__cxx11::basic_string<char>::basic_string[abi:cxx11](int)", "std::__cxx11::basic_string::basic_string"},
    {"decltype(auto) g<int>(int)", "g"},
    {"void (*h<int>(int))(char)", "void (*h<int>(int))(char)"}, /* nothing would be left */
    {"{){){)", "{}{}{}"}, /* such a text grew by a bracket for each, beyond its memory */
    {"f::<)::<]", "f::{}::{}"},
    {"", ""},
};

static void names_lose_their_arguments(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *name = name_shortened(rows[i].full);
        assert_string_equal(name, rows[i].shortened);
        free(name);
    }
}

static void what_is_no_name_does_no_harm(void **state)
{
    (void)state;
    static const char brackets[] = "(<[{}]>): ->operator{lambda(*";
    char text[24];
    uint64_t random = 1;
    for (unsigned i = 0; i < 200000; i++) {
        size_t length = (random >> 59) % sizeof text;
        for (size_t k = 0; k < length; k++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            text[k] = brackets[(random >> 33) % (sizeof brackets - 1)];
        }
        text[length] = 0;
        char *name = name_shortened(text);
        assert_true(strlen(name) <= length + 2);
        free(name);
    }
}

static void mangled_names_are_read(void **state)
{
    (void)state;
    char *name = name_for_people("_ZN3app5cache4fillEi", false);
    assert_string_equal(name, "app::cache::fill");
    free(name);
    name = name_for_people("_ZN3app5cache4fillEi", true);
    assert_string_equal(name, "app::cache::fill(int)");
    free(name);
    name = name_for_people("_Znonsense", false);
    assert_string_equal(name, "_Znonsense");
    free(name);
    name = name_for_people("_RNvXs0_NtNtNtCsgEmfK2I1SDS_4core3fmt3num3impxNtB9_7Display3fmt", false); /* Rust's */
    assert_string_equal(name, "<i64 as core::fmt::Display>::fmt");
    free(name);
    name = name_for_people("_ZN4core3fmt5write17h0123456789abcdefE", false);
    assert_string_equal(name, "core::fmt::write");
    free(name);
    name = name_for_people("plain", true);
    assert_string_equal(name, "plain");
    free(name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_lose_their_arguments),
        cmocka_unit_test(what_is_no_name_does_no_harm),
        cmocka_unit_test(mangled_names_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
