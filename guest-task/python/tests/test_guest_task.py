"""Without a daemon: python3 -m unittest, with GUEST_TASK_LIBRARY and PYTHONPATH set."""

import os
import signal
import tempfile
import unittest

import guest_task


class Tests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        cls.registry = guest_task.Registry(os.path.join(cls.dir.name, "none.sock"))

    @classmethod
    def tearDownClass(cls):
        cls.registry.close()
        cls.dir.cleanup()

    def test_without_a_daemon_nothing_fails(self):
        self.assertIsNone(self.registry.wait(0.01))
        with self.registry.publish("a", signals={signal.SIGTERM}) as parent:
            child = self.registry.publish("b\0c", owner="ä" * 100, parent=parent)
            child.state = guest_task.STOPPED
            child.cpu_time_ns = 5
            child.set_texts(cmdline="x")
            self.assertNotEqual(parent.id, child.id)
            child.retire()
            child.retire()
            child.nice = 3
        self.assertIsNone(self.registry.next_event())
        self.assertEqual(list(self.registry.events(timeout=0.01)), [])

    def test_what_makes_no_sense_is_an_error(self):
        with self.assertRaises(ValueError):
            self.registry.publish("a", signals={0})
        closed = guest_task.Registry(os.path.join(self.dir.name, "none.sock"))
        closed.close()
        with self.assertRaises(ValueError):
            closed.publish("a")

    def test_child_after_fork_does_nothing(self):
        task = self.registry.publish("a")
        pid = os.fork()
        if pid == 0:
            task.state = guest_task.STOPPED
            is_quiet = self.registry.publish("b").id == 0 and self.registry.next_event() is None
            os._exit(0 if is_quiet else 1)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        task.retire()


if __name__ == "__main__":
    unittest.main()
