"""Two tasks, and what others want of them."""

import signal

import guest_task

registry = guest_task.Registry()
boss = registry.publish("boss", state=guest_task.SLEEPING)
takes = {signal.SIGTERM, signal.SIGUSR1}
worker = registry.publish("worker", cmdline="worker --fast", owner="bob", parent=boss, signals=takes, takes_nice=True)
worker.memory_bytes = 8192
worker.cpu_time_ns = 2_000_000
print("answer", {True: 1, None: 0, False: -1}[registry.wait(5)], flush=True)
for event in registry.events():
    kind, value = ("nice", event.nice) if event.signal is None else ("signal", int(event.signal))
    print("worker" if event.task == worker.id else "?", kind, value, flush=True)
    if event.nice is not None:
        worker.nice = event.nice
    elif event.signal == signal.SIGUSR1:
        worker.set_texts("worker2", "worker --faster")
    else:
        break
worker.retire()
boss.retire()
registry.close()
