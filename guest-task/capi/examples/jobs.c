/* Two tasks, and what others want of them: cc jobs.c $(pkg-config --cflags --libs guesttask) */
#include <guest_task.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>

int main(void)
{
    gt_registry *registry = gt_connect(NULL);
    if (!registry) {
        perror("gt_connect");
        return 1;
    }
    struct gt_spec spec = { .name = "boss", .state = GT_SLEEPING };
    gt_task *boss = gt_publish(registry, &spec);
    spec = (struct gt_spec) {
        .name = "worker", .cmdline = "worker --fast", .owner = "bob", .parent = gt_id(boss), .cpu_ns = 2000000,
        .signals = GT_SIGNAL_BIT(SIGTERM) | GT_SIGNAL_BIT(SIGUSR1), .takes_nice = 1,
    };
    gt_task *worker = gt_publish(registry, &spec);
    gt_set_memory(worker, 8192);
    printf("answer %d\n", gt_wait(registry, 5000));
    fflush(stdout);
    for (int is_over = 0; !is_over;) {
        struct pollfd fd = { .fd = gt_event_fd(registry), .events = POLLIN };
        poll(&fd, 1, -1);
        struct gt_event event;
        while (gt_next_event(registry, &event)) {
            printf("%s %s %d\n", event.task == gt_id(worker) ? "worker" : "?", event.kind == GT_NICE ? "nice" : "signal", event.value);
            fflush(stdout);
            if (event.kind == GT_NICE)
                gt_set_nice(worker, event.value);
            else if (event.value == SIGUSR1)
                gt_set_texts(worker, "worker2", "worker --faster", "bob");
            else
                is_over = 1;
        }
    }
    gt_retire(worker);
    gt_retire(boss);
    gt_close(registry);
    return 0;
}
