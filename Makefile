# Makefile - a thin door: CMake builds, CTest tests, and each target here is one call.
#
#   make                  install what is missing to build (Debian), then build into build/
#   make run              the same, then the benchmark bench/run.sh
#   make test             everything: all compilers, all kinds of build, all tests
#   make test-tsan        all unit tests under ThreadSanitizer
#   make coverage         which lines of the library the tests run; see tests/coverage/coverage.sh
#   make bench            many workloads on hakmem, glibc and the allocators that Debian packages; see bench/bench.py
#   make bench-latency, make bench-contention, make bench-memory
#                         single calls in cycles; atomic instructions and locks per million operations; what memory
#                         a program keeps after it has let go of it, and what a server has over a long life
#   make bench-scaling    operations per second by number of threads; see bench/scaling.py
#   make bench-compare    hakmem beside the allocators that Debian packages
#   make install PREFIX=  install what `make build` built (default /usr/local; DESTDIR works too)
#   make package          Debian packages of it, into build/package/
#   make setup            install every package that any target needs
#   make format, make clean

PREFIX ?= /usr/local
SETUP   = packaging/setup-debian.sh

.PHONY: build run test test-tsan coverage bench bench-latency bench-contention bench-memory bench-scaling bench-compare install package setup format clean

build:
	@$(SETUP) build
	@cmake --preset release > /dev/null
	@cmake --build --preset release --target products

run: build
	@$(SETUP) bench
	bench/run.sh

test:
	@$(SETUP) build test
	@tests/run.sh

# All unit tests; `test` runs some of them so. ThreadSanitizer refuses some kernels' address layouts.
test-tsan:
	@$(SETUP) build test
	@tests/run.sh tsan

coverage:
	@$(SETUP) build test coverage
	@tests/coverage/coverage.sh

# PEERS="name=/path/lib.so ...", ONLY="pattern ...", ROUNDS=n, SECONDS=n and OUT=dir reach it by the environment.
export PEERS ONLY ROUNDS OUT SIDES SECONDS THREADS WORK
bench: build
	@$(SETUP) bench
	bench/bench.py

bench-latency: build
	@$(SETUP) bench
	bench/latency.py

bench-contention: build
	@$(SETUP) bench test
	bench/contention.py

bench-memory: build
	@$(SETUP) bench
	bench/memory.py
	bench/longlife.py

bench-scaling: build
	@$(SETUP) bench
	bench/scaling.py

bench-compare: build
	@$(SETUP) bench
	bench/compare.sh

install:
	@test -e build/cmake_install.cmake || { echo "Run make first: there is nothing to install." >&2; exit 1; }
	cmake --install build --prefix "$(PREFIX)"

package: build
	@$(SETUP) package
	umask 022 && cpack --config build/CPackConfig.cmake -B build/package

setup:
	@$(SETUP) build test coverage bench format package

format:
	@$(SETUP) format
	git ls-files -z --cached --others --exclude-standard '*.c' '*.h' '*.cc' | xargs -0 -r clang-format -i

clean:
	rm -rf build
