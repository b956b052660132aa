/* names.h - gives the functions of src/api/override.c names of their own, so that a program can call them while its malloc
 * stays libc's. Included before anything else when that file is compiled for the fuzzer; see CMakeLists.txt.
 * Nothing of libc is called by these names there, so renaming what its headers declare does no harm.
 */
#include "hakmem/hakmem.h" /* before the names change: malloc is an attribute's name there, too */

#define malloc names_malloc
#define free names_free
#define calloc names_calloc
#define realloc names_realloc
#define aligned_alloc names_aligned_alloc
#define posix_memalign names_posix_memalign
#define free_sized names_free_sized
#define free_aligned_sized names_free_aligned_sized
#define memalign names_memalign
#define valloc names_valloc
#define pvalloc names_pvalloc
#define reallocarray names_reallocarray
#define reallocf names_reallocf
#define reallocarr names_reallocarr
#define malloc_usable_size names_malloc_usable_size
#define malloc_size names_malloc_size
#define malloc_good_size names_malloc_good_size
#define malloc_trim names_malloc_trim
#define mallinfo2 names_mallinfo2
#define mallinfo names_mallinfo
#define mallopt names_mallopt
#define malloc_stats names_malloc_stats
#define malloc_info names_malloc_info
#define alias(target) unused /* further names of the same functions are left out */
