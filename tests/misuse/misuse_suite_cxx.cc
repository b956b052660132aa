/* misuse_suite_cxx.cc - the misuse of new and delete: what was claimed one way is returned another way.
 *
 * Owns     the table of kinds in C++.     Called by  tests/scripts/misuse_table.sh, by hand with any malloc preloaded
 * Threads  one.     Output and cases  misuse.h
 *
 * Each of these works with an allocator whose operators are all malloc and free. Where the elements have destructors,
 * the compiler keeps their number in front of the array, and the other form of delete gives the operator an address
 * that is not the block's: then an allocator that looks at addresses finds it, too.
 */
#include "misuse.h"

#include <new>

namespace {

struct destructible {
    ~destructible() { n_destroyed = n_destroyed + 1; }
    size_t numbers[3];
    static volatile size_t n_destroyed;
};
volatile size_t destructible::n_destroyed;

struct larger {
    size_t numbers[12];
};

enum verdict malloc_delete(size_t)
{
    char *block = claim(48);
    HIDE(block);
    ::operator delete(block);
    return EFFECTIVE;
}

enum verdict new_free(size_t)
{
    char *block = static_cast<char *>(::operator new(48));
    HIDE(block);
    do_free(block);
    return EFFECTIVE;
}

enum verdict new_delete_array(size_t)
{
    char *one = new char;
    HIDE(one);
    delete[] one;
    return EFFECTIVE;
}

enum verdict new_array_delete(size_t)
{
    char *array = new char[4096];
    HIDE(array);
    delete array;
    return EFFECTIVE;
}

/* delete[] of a single object would first destroy as many as the word in front of the object says, which is not the
 * program's. What follows is always the same, and it alone is done here: the operator is called for that word. */
enum verdict new_delete_array_destructors(size_t)
{
    auto *one = reinterpret_cast<char *>(new destructible);
    HIDE(one);
    ::operator delete[](one - sizeof(size_t));
    return EFFECTIVE;
}

enum verdict new_array_delete_destructors(size_t)
{
    destructible *array = new destructible[100];
    HIDE(array);
    delete array;
    return EFFECTIVE;
}

/* Through a pointer to a type of another size, which the operator is told. */
enum verdict delete_wrong_size(size_t)
{
    char *one = new char;
    HIDE(one);
    larger *other = reinterpret_cast<larger *>(one);
    delete other;
    return EFFECTIVE;
}

const struct kind kinds[] = {
    {"malloc_delete", NO_SIZE, malloc_delete},
    {"new_free", NO_SIZE, new_free},
    {"new_delete_array", NO_SIZE, new_delete_array},
    {"new_array_delete", NO_SIZE, new_array_delete},
    {"new_delete_array_destructors", NO_SIZE, new_delete_array_destructors},
    {"new_array_delete_destructors", NO_SIZE, new_array_delete_destructors},
    {"delete_wrong_size", NO_SIZE, delete_wrong_size},
};

} // namespace

int main(int argc, char **argv)
{
    return misuse_main(argc, argv, kinds, sizeof kinds / sizeof kinds[0]);
}
