/* plugin.c - a plug-in with an allocator of its own: it frees enough to wake the library's thread, and keeps a thread's record.
 */
#include <hakmem/hakmem.h>

#include <string.h>

#define N_BLOCKS 400

int plugin_work(void);

int plugin_work(void)
{
    static char *block[N_BLOCKS];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N_BLOCKS; i++) {
            if ((block[i] = hak_malloc(60000)) == NULL)
                return 1;
            memset(block[i], 1, 60000);
        }
        for (int i = 0; i < N_BLOCKS; i++)
            hak_free(block[i]);
    }
    return 0;
}
