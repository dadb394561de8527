"""Another process that holds a directory, until it is told to end or killed."""

import os
import signal

from htpo_trl.output.lock import held


class Child:
    """A forked process that does something and then waits to be told to end, or to be killed."""

    def __init__(self, do):
        ready, self._ready = os.pipe()
        end, self._end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._end)
            try:
                do(lambda: (os.write(self._ready, b"."), os.read(end, 1)))
            finally:
                os._exit(0)
        os.close(self._ready)
        os.close(end)
        self.said = os.read(ready, 1)
        os.close(ready)

    def end(self):
        os.close(self._end)
        os.waitpid(self.pid, 0)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._end)


def holder(directory, what="htpo train"):
    def hold(wait):
        with held(directory, what):
            wait()

    child = Child(hold)
    assert child.said == b"."
    return child
