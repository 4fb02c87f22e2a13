"""Shows what an application does inside as tasks of the host.

    import signal, guest_task

    registry = guest_task.Registry()
    with registry.publish("import", cmdline="import users.csv", signals={signal.SIGTERM}) as task:
        task.cpu_time_ns = 120_000
        for event in registry.events():
            if event.task == task.id and event.signal == signal.SIGTERM:
                ...  # Cancel the import.

The library libguesttask.so is the one that GUEST_TASK_LIBRARY names, else the system's. A daemon need not be there; after a fork
the child's registry and tasks do nothing, and it may make a registry of its own.
"""

import ctypes
import ctypes.util
import os
import select
from dataclasses import dataclass
from typing import Iterable, Iterator, Optional

__all__ = ["Event", "Registry", "Task", "RUNNING", "SLEEPING", "WAITING", "QUEUED", "STOPPED"]

RUNNING, SLEEPING, WAITING, QUEUED, STOPPED = range(1, 6)


class _Spec(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("cmdline", ctypes.c_char_p),
        ("owner", ctypes.c_char_p),
        ("parent", ctypes.c_uint64),
        ("signals", ctypes.c_uint64),
        ("start_ns", ctypes.c_uint64),
        ("cpu_ns", ctypes.c_uint64),
        ("memory_bytes", ctypes.c_uint64),
        ("parent_pid", ctypes.c_int32),
        ("state", ctypes.c_int32),
        ("nice", ctypes.c_int32),
        ("takes_nice", ctypes.c_int32),
    ]


class _Event(ctypes.Structure):
    _fields_ = [("task", ctypes.c_uint64), ("kind", ctypes.c_int32), ("value", ctypes.c_int32)]


def _load() -> ctypes.CDLL:
    name = os.environ.get("GUEST_TASK_LIBRARY") or ctypes.util.find_library("guesttask") or "libguesttask.so"
    library = ctypes.CDLL(name, use_errno=True)
    pointer, text, number, word = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint64
    for function, result, arguments in [
        ("gt_connect", pointer, [text]),
        ("gt_wait", number, [pointer, number]),
        ("gt_close", None, [pointer]),
        ("gt_publish", pointer, [pointer, ctypes.POINTER(_Spec)]),
        ("gt_retire", None, [pointer]),
        ("gt_id", word, [pointer]),
        ("gt_set_state", None, [pointer, number]),
        ("gt_set_nice", None, [pointer, number]),
        ("gt_set_cpu_time", None, [pointer, word]),
        ("gt_set_memory", None, [pointer, word]),
        ("gt_set_texts", None, [pointer, text, text, text]),
        ("gt_event_fd", number, [pointer]),
        ("gt_next_event", number, [pointer, ctypes.POINTER(_Event)]),
    ]:
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments
    return library


_library: Optional[ctypes.CDLL] = None


def _lib() -> ctypes.CDLL:
    global _library
    if _library is None:
        _library = _load()
    return _library


def _bytes(text: str) -> bytes:
    # A zero byte would end the text; everything else is the reader's to clean.
    return text.replace("\0", " ").encode("utf-8", "replace")


@dataclass(frozen=True)
class Event:
    """Somebody sends the task with this id a signal, or wants it to have another nice value."""

    task: int
    signal: Optional[int] = None
    nice: Optional[int] = None


class Task:
    """A task that is shown until retire(), or the end of its with block."""

    def __init__(self, handle: int, name: str, cmdline: str, owner: str):
        self._handle: Optional[int] = handle
        self._texts = [name, cmdline, owner]
        self.id: int = _lib().gt_id(handle)

    def _set(self, function: str, value: int) -> None:
        if self._handle is not None:
            getattr(_lib(), function)(self._handle, value)

    def retire(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            _lib().gt_retire(handle)

    def set_texts(self, name: Optional[str] = None, cmdline: Optional[str] = None, owner: Optional[str] = None) -> None:
        new = [name, cmdline, owner]
        self._texts = [old if text is None else text for old, text in zip(self._texts, new)]
        if self._handle is not None:
            _lib().gt_set_texts(self._handle, *map(_bytes, self._texts))

    state = property(None, lambda self, value: self._set("gt_set_state", value), doc="What it is doing; to be set.")
    nice = property(None, lambda self, value: self._set("gt_set_nice", value), doc="Its priority; to be set.")
    cpu_time_ns = property(None, lambda self, value: self._set("gt_set_cpu_time", value), doc="CPU time it had; to be set.")
    memory_bytes = property(None, lambda self, value: self._set("gt_set_memory", value), doc="Memory it has; to be set.")

    def __enter__(self) -> "Task":
        return self

    def __exit__(self, *_: object) -> None:
        self.retire()

    def __del__(self) -> None:
        self.retire()


class Registry:
    """The tasks of this application. Make one, not many: its memory is kept until the process ends."""

    def __init__(self, socket: Optional[str] = None):
        self._handle: Optional[int] = None
        handle = _lib().gt_connect(None if socket is None else os.fsencode(socket))
        if not handle:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._handle = handle

    def _open(self) -> int:
        if self._handle is None:
            raise ValueError("the registry is closed")
        return self._handle

    def wait(self, timeout: float = 0) -> Optional[bool]:
        """Waits for the daemon's answer: True if it shows the tasks, False if it refuses, None if none answers."""
        return {1: True, 0: None, -1: False}[_lib().gt_wait(self._open(), int(timeout * 1000))]

    def publish(
        self,
        name: str,
        *,
        cmdline: str = "",
        owner: str = "",
        state: int = RUNNING,
        parent: Optional[Task] = None,
        parent_pid: int = 0,
        nice: int = 0,
        signals: Iterable[int] = (),
        takes_nice: bool = False,
    ) -> Task:
        """Shows a task. Signals not named, and another nice unless it takes one, are refused to whoever sends them."""
        mask = 0
        for number in signals:
            if not 1 <= number <= 64:
                raise ValueError(f"there is no signal {number}")
            mask |= 1 << (number - 1)
        spec = _Spec(
            name=_bytes(name),
            cmdline=_bytes(cmdline),
            owner=_bytes(owner),
            parent=0 if parent is None else parent.id,
            parent_pid=parent_pid,
            signals=mask,
            state=state,
            nice=nice,
            takes_nice=takes_nice,
        )
        return Task(_lib().gt_publish(self._open(), ctypes.byref(spec)), name, cmdline, owner)

    def fileno(self) -> int:
        """A descriptor that can be read while events wait, so that a registry fits into select, selectors and asyncio."""
        return _lib().gt_event_fd(self._open())

    def next_event(self) -> Optional[Event]:
        """Gives the next event, if one waits."""
        event = _Event()
        if not _lib().gt_next_event(self._open(), ctypes.byref(event)):
            return None
        if event.kind == 1:
            return Event(event.task, signal=event.value)
        return Event(event.task, nice=event.value)

    def events(self, timeout: Optional[float] = None) -> Iterator[Event]:
        """Gives events as they come; ends when none came for that long."""
        while True:
            event = self.next_event()
            if event is not None:
                yield event
            elif not select.select([self], [], [], timeout)[0]:
                return

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            _lib().gt_close(handle)

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
