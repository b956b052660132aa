# HakmemTargets.cmake - the compile options of each kind of target, in one place.

# Every target: warnings, and the sanitizers of this build.
function(hakmem_common_options target)
    target_compile_options(${target} PRIVATE -Wall -Wextra)
    if(HAKMEM_WERROR)
        target_compile_options(${target} PRIVATE -Werror)
    endif()
    if(HAKMEM_SANITIZE)
        target_compile_options(${target} PRIVATE
            -fsanitize=${HAKMEM_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
        target_link_options(${target} PUBLIC -fsanitize=${HAKMEM_SANITIZE})
    endif()
endfunction()

# What the compiler knows about malloc must not be used where malloc is written or tested: it would drop pairs of
# malloc and free, or turn malloc + memset inside calloc into a call of calloc.
set(HAKMEM_NO_BUILTIN_MALLOC
    -fno-builtin-malloc -fno-builtin-calloc -fno-builtin-realloc -fno-builtin-free)

# The library and its variants. PUBLIC where a user of an internal header must agree with the library.
function(hakmem_library_options target)
    hakmem_common_options(${target})
    # UNITY_BUILD: files of src/ may give their own functions the same names, and some are left out by name.
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON UNITY_BUILD OFF)
    target_include_directories(${target} PUBLIC "${PROJECT_SOURCE_DIR}/include" "${PROJECT_SOURCE_DIR}/src")
    # initial-exec: a thread-local pointer costs one instruction, and reading it never allocates.
    # exceptions: an exception passes through operator new and through the C functions below it.
    target_compile_options(${target} PRIVATE
        -Wshadow -Wstrict-prototypes -Wmissing-prototypes
        -fvisibility=hidden -fno-semantic-interposition -ftls-model=initial-exec -fexceptions -ffunction-sections
        ${HAKMEM_NO_BUILTIN_MALLOC})
    if(HAKMEM_COVERAGE)
        target_compile_options(${target} PRIVATE --coverage -fprofile-update=atomic -fprofile-abs-path)
    endif()
    # Defined as nothing, which is what a source that defines it for itself says too.
    target_compile_definitions(${target} PUBLIC _GNU_SOURCE= $<$<BOOL:${HAKMEM_DEBUG_CHECKS}>:HAKMEM_DEBUG_BUILD=1>)
endfunction()

# A test program, in C or C++. Its assertions stay in whatever the build type, and it may do with malloc what compilers
# warn about, because that is what it tests.
function(hakmem_test_options target)
    hakmem_common_options(${target})
    target_compile_options(${target} PRIVATE
        -UNDEBUG ${HAKMEM_NO_BUILTIN_MALLOC} -fno-builtin-aligned_alloc -fno-builtin-memalign -fno-builtin-posix_memalign
        -Wno-unknown-warning-option -Wno-use-after-free -Wno-free-nonheap-object -Wno-alloc-size-larger-than
        -Wno-mismatched-dealloc -Wno-unused-result -Wno-deprecated-declarations
        $<$<COMPILE_LANGUAGE:CXX>:-Wno-mismatched-new-delete -Wno-sized-deallocation>)
    set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests")
endfunction()
