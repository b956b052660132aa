/* handler.c - linked statically: what a signal handler frees starts no thread while it runs, for it may have interrupted libc. All of such
 * a program may be libc. Prints what is wrong.
 */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_BLOCKS = 64, BLOCK_BYTES = 256 * 1024 };

static char *blocks[N_BLOCKS];
static int n_inside;

static int count_threads(void)
{
    int n = 0;
    DIR *directory = opendir("/proc/self/task");
    if (directory == NULL)
        return 0;
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;)
        n += entry->d_name[0] != '.';
    closedir(directory);
    return n;
}

static void on_signal(int number)
{
    (void)number;
    for (int i = 0; i < N_BLOCKS; i++)
        free(blocks[i]);
    n_inside = count_threads();
}

int main(void)
{
    signal(SIGUSR1, on_signal);
    for (int i = 0; i < N_BLOCKS; i++) {
        blocks[i] = malloc(BLOCK_BYTES);
        if (blocks[i] == NULL)
            return 1;
        memset(blocks[i], 1, BLOCK_BYTES);
    }
    raise(SIGUSR1);
    free(malloc(100000));
    if (n_inside == 1 && count_threads() == 2)
        return 0;
    fprintf(stderr, "handler: %d threads in the handler, %d after it\n", n_inside, count_threads());
    return 1;
}
