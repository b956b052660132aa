/* replay.c - runs inputs of the fuzzer without a fuzzer: fuzz_replay FILE-OR-DIRECTORY...
 * Each file is run in a process of its own, so that each begins with a fresh heap and all of them are run.
 * Called by  tests/scripts/fuzz_short.sh     Calls  fuzz_api.c
 * Prints one line per file that fails, then how many there were. Status 1: one failed; 2: one cannot be read, or there was none.
 */
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes);

enum { INPUT_MAX_BYTES = 1 << 20, LIMIT_S = 60 };

static uint8_t bytes[INPUT_MAX_BYTES];
static unsigned n_run, n_failed;

static void give_up(const char *path)
{
    perror(path);
    exit(2);
}

static void run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        give_up(path);
    size_t len_bytes = fread(bytes, 1, sizeof bytes, file);
    if (ferror(file))
        give_up(path);
    fclose(file);
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        give_up("fork");
    if (pid == 0) {
        alarm(LIMIT_S);
        LLVMFuzzerInitialize(NULL, NULL);
        LLVMFuzzerTestOneInput(bytes, len_bytes);
        _exit(0);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid)
        give_up("waitpid");
    n_run++;
    if (status != 0) {
        n_failed++;
        printf("FAILED: %s: status 0x%x\n", path, (unsigned)status);
    }
}

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void run(const char *path)
{
    struct dirent **entries;
    int n = scandir(path, &entries, is_visible, alphasort);
    if (n < 0) {
        run_file(path);
        return;
    }
    for (int i = 0; i < n; i++) {
        char *below = NULL;
        if (asprintf(&below, "%s/%s", path, entries[i]->d_name) < 0)
            give_up(path);
        run(below);
        free(below);
        free(entries[i]);
    }
    free(entries);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        run(argv[i]);
    printf("%u inputs, %u failed\n", n_run, n_failed);
    return n_failed != 0 ? 1 : n_run == 0 ? 2 : 0;
}
