# HakmemInstall.cmake - what `cmake --install` puts where.
#
# The installed tree may be moved: the pkg-config file and the CMake package find their prefix from where they lie.

include(CMakePackageConfigHelpers)

set(hakmem_cmake_dir "${CMAKE_INSTALL_LIBDIR}/cmake/hakmem")

install(TARGETS hakmem_shared hakmem_static EXPORT hakmemTargets
        LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}"
        ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/hakmem" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
        FILES_MATCHING PATTERN "*.h")
if(TARGET hakmem_command)
    install(TARGETS hakmem_command RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()

install(EXPORT hakmemTargets NAMESPACE hakmem:: DESTINATION "${hakmem_cmake_dir}")
configure_package_config_file("${PROJECT_SOURCE_DIR}/packaging/hakmemConfig.cmake.in"
                              "${PROJECT_BINARY_DIR}/packaging/hakmemConfig.cmake"
                              INSTALL_DESTINATION "${hakmem_cmake_dir}")
# Before 1.0 a new minor version may change the interface.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/packaging/hakmemConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/packaging/hakmemConfig.cmake"
              "${PROJECT_BINARY_DIR}/packaging/hakmemConfigVersion.cmake"
        DESTINATION "${hakmem_cmake_dir}")

# The path from the directory of hakmem.pc up to the prefix, whatever the prefix turns out to be.
file(RELATIVE_PATH hakmem_pc_to_prefix "/prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/prefix")
string(REGEX REPLACE "/$" "" hakmem_pc_to_prefix "${hakmem_pc_to_prefix}")
set(hakmem_pc_private_libs "-Wl,-z,nodelete")
if(HAKMEM_OVERRIDE)
    string(APPEND hakmem_pc_private_libs " -Wl,-u,malloc -Wl,-u,_Znwm -Wl,-u,sigaction")
endif()
# A directory that is given as an absolute path does not move with the prefix.
foreach(dir IN ITEMS LIBDIR INCLUDEDIR)
    set(hakmem_pc_${dir} "\${prefix}/${CMAKE_INSTALL_${dir}}")
    if(IS_ABSOLUTE "${CMAKE_INSTALL_${dir}}")
        set(hakmem_pc_${dir} "${CMAKE_INSTALL_${dir}}")
    endif()
endforeach()
set(hakmem_pc_prefix "\${pcfiledir}/${hakmem_pc_to_prefix}")
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
    set(hakmem_pc_prefix "${CMAKE_INSTALL_PREFIX}")
endif()
configure_file("${PROJECT_SOURCE_DIR}/packaging/hakmem.pc.in" "${PROJECT_BINARY_DIR}/packaging/hakmem.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/packaging/hakmem.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
