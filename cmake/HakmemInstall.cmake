# HakmemInstall.cmake - what `cmake --install` puts where, and what `cpack` makes Debian packages of.
#
# The installed tree may be moved: the pkg-config file and the CMake package find their prefix from where they lie.
#
# Three components, each a package: runtime (the shared library), dev (what programs are linked with), command.

include(CMakePackageConfigHelpers)

set(hakmem_cmake_dir "${CMAKE_INSTALL_LIBDIR}/cmake/hakmem")

install(TARGETS hakmem_shared hakmem_static EXPORT hakmemTargets
        LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT runtime NAMELINK_COMPONENT dev
        ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT dev)
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/hakmem" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT dev
        FILES_MATCHING PATTERN "*.h")
if(TARGET hakmem_command)
    install(TARGETS hakmem_command RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT command)
endif()
if(TARGET hakmem_manual)
    install(FILES "${PROJECT_BINARY_DIR}/packaging/hakmem.1" DESTINATION "${CMAKE_INSTALL_MANDIR}/man1" COMPONENT command)
endif()

install(EXPORT hakmemTargets NAMESPACE hakmem:: DESTINATION "${hakmem_cmake_dir}" COMPONENT dev)
configure_package_config_file("${PROJECT_SOURCE_DIR}/packaging/hakmemConfig.cmake.in"
                              "${PROJECT_BINARY_DIR}/packaging/hakmemConfig.cmake"
                              INSTALL_DESTINATION "${hakmem_cmake_dir}")
# Before 1.0 a new minor version may change the interface.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/packaging/hakmemConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/packaging/hakmemConfig.cmake"
              "${PROJECT_BINARY_DIR}/packaging/hakmemConfigVersion.cmake"
        DESTINATION "${hakmem_cmake_dir}" COMPONENT dev)

# The path from the directory of hakmem.pc up to the prefix, whatever the prefix turns out to be.
file(RELATIVE_PATH hakmem_pc_to_prefix "/prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/prefix")
string(REGEX REPLACE "/$" "" hakmem_pc_to_prefix "${hakmem_pc_to_prefix}")
set(hakmem_pc_private_libs "-pthread -Wl,-z,nodelete")
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
install(FILES "${PROJECT_BINARY_DIR}/packaging/hakmem.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig" COMPONENT dev)

# Debian packages: `make package`. Inside another project only that one says what is packaged.
if(PROJECT_IS_TOP_LEVEL)
    set(CPACK_GENERATOR DEB)
    set(CPACK_PACKAGE_CONTACT "the hakmem maintainers")
    set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
    set(CPACK_DEB_COMPONENT_INSTALL ON)
    set(CPACK_COMPONENTS_ALL runtime dev)
    set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
    set(CPACK_DEBIAN_PACKAGE_SECTION libs)
    set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
    set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
    set(CPACK_DEBIAN_ENABLE_COMPONENT_DEPENDS ON)

    set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME libhakmem${PROJECT_VERSION_MAJOR})
    set(CPACK_COMPONENT_RUNTIME_DESCRIPTION "${PROJECT_DESCRIPTION}")
    set(CPACK_DEBIAN_DEV_PACKAGE_NAME libhakmem-dev)
    set(CPACK_DEBIAN_DEV_PACKAGE_SECTION libdevel)
    set(CPACK_COMPONENT_DEV_DESCRIPTION "Header, static library and build files of the hakmem allocator")
    set(CPACK_COMPONENT_DEV_DEPENDS runtime)
    if(TARGET hakmem_command)
        list(APPEND CPACK_COMPONENTS_ALL command)
        set(CPACK_DEBIAN_COMMAND_PACKAGE_NAME hakmem)
        set(CPACK_DEBIAN_COMMAND_PACKAGE_SECTION utils)
        set(CPACK_COMPONENT_COMMAND_DESCRIPTION "Starts programs on the hakmem allocator and looks into their heaps")
        set(CPACK_COMPONENT_COMMAND_DEPENDS runtime)
    endif()
    include(CPack)
endif()
