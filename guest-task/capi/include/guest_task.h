/* Shows what an application does inside as tasks of the host. Link with -lguesttask.
 *
 * Texts are UTF-8 and NULL stands for an empty one; they are copied. Nothing here waits for the daemon but gt_wait; publishing, changing and
 * retiring make no system call. After fork(2) the child's registry and tasks do nothing; it may connect by itself. Functions may be called from
 * several threads at once, gt_set_texts and gt_retire not on the same task.
 */
#ifndef GUEST_TASK_H
#define GUEST_TASK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gt_registry gt_registry;
typedef struct gt_task gt_task;

enum gt_state { GT_RUNNING = 1, GT_SLEEPING = 2, GT_WAITING = 3, GT_QUEUED = 4, GT_STOPPED = 5 };

/* Set it to zero and fill in what is known. */
struct gt_spec {
    const char *name;       /* at most 32 bytes are shown */
    const char *cmdline;    /* at most 112 bytes */
    const char *owner;      /* for whom it is done, at most 32 bytes; gives nobody any right */
    uint64_t parent;        /* gt_id of its parent; 0: see parent_pid */
    uint64_t signals;       /* signals it takes: GT_SIGNAL_BIT(SIGTERM) | ...; others are refused to the sender */
    uint64_t start_ns;      /* CLOCK_MONOTONIC; 0: now */
    uint64_t cpu_ns;
    uint64_t memory_bytes;
    int32_t parent_pid;     /* a process or guest task of others that it is shown below; 0: the application */
    int32_t state;          /* enum gt_state; 0: running */
    int32_t nice;           /* -20 to 19 */
    int32_t takes_nice;     /* whether it takes another nice value */
};

#define GT_SIGNAL_BIT(number) ((uint64_t)1 << ((number) - 1))

enum gt_kind { GT_SIGNAL = 1, GT_NICE = 2 };

/* Somebody sends a task a signal, or wants it to have another nice value. */
struct gt_event {
    uint64_t task;          /* gt_id */
    int32_t kind;           /* enum gt_kind */
    int32_t value;          /* the signal's number, or the nice value */
};

/* Makes a registry that connects to the daemon's socket, whenever there is one; NULL: the socket that COMPARTMENTS_SOCKET names, or the default
 * one. Gives NULL with errno set if there is no memory, descriptor or thread for it. Make one for the application, not many. */
gt_registry *gt_connect(const char *socket);

/* Waits for the daemon's answer. 1: the tasks are shown, 0: no daemon answers, -1: it refuses. */
int gt_wait(const gt_registry *registry, int timeout_ms);

/* Ends the connection: tasks are no longer shown. They still have to be retired. */
void gt_close(gt_registry *registry);

/* Shows a task until gt_retire. Never fails; where there is no room for it it is just not shown. */
gt_task *gt_publish(const gt_registry *registry, const struct gt_spec *spec);
void gt_retire(gt_task *task);

/* Names a task in events and for its children. */
uint64_t gt_id(const gt_task *task);

void gt_set_state(const gt_task *task, int state);
void gt_set_nice(const gt_task *task, int nice);
void gt_set_cpu_time(const gt_task *task, uint64_t cpu_ns);
void gt_set_memory(const gt_task *task, uint64_t memory_bytes);
void gt_set_texts(gt_task *task, const char *name, const char *cmdline, const char *owner);

/* A descriptor that can be read while events wait; for poll(2) and the like. Only gt_next_event reads it. */
int gt_event_fd(const gt_registry *registry);

/* Gives the next event. 1: there was one, 0: none waits. */
int gt_next_event(const gt_registry *registry, struct gt_event *event);

#ifdef __cplusplus
}
#endif

#endif
