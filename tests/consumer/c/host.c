/* host.c - loads the plug-in that it is given, has it work in a thread, and closes it before that thread ends.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *plugin;
static pthread_barrier_t step;

static void *work_and_wait(void *status)
{
    int (*work)(void);
    void *symbol = dlsym(plugin, "plugin_work");
    memcpy(&work, &symbol, sizeof work);
    *(int *)status = symbol == NULL || work() != 0;
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    int failed = 0, child_status = 0;
    plugin = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (plugin == NULL || pthread_barrier_init(&step, NULL, 2) != 0 ||
        pthread_create(&thread, NULL, work_and_wait, &failed) != 0) {
        printf("%s\n", plugin == NULL ? dlerror() : "no thread");
        return 1;
    }
    pthread_barrier_wait(&step);
    failed |= dlclose(plugin) != 0;
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    failed |= child < 0 || waitpid(child, &child_status, 0) != child || child_status != 0;
    pthread_barrier_wait(&step);
    failed |= pthread_join(thread, NULL) != 0;
    sleep(1); /* the library's thread ends */
    return failed;
}
