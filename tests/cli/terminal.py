"""`viscpm` at a terminal: what is typed, what is shown."""

import codecs
import os
import re
import select
import subprocess
import sys
import time

LEADER = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """The command at a terminal of its own."""

    def __init__(self, *arguments, **environment):
        import pty  # not everywhere
        import termios

        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 120))  # progress bars are as wide as it
        environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment}
        command = [sys.executable, "-m", "viscpm_hf.cli", *map(str, arguments)]
        options = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        # a session of its own, whose terminal this is: else no key is a signal
        self.process = subprocess.Popen(
            [sys.executable, "-c", LEADER, *command], env=environment, start_new_session=True, **options
        )
        os.close(theirs)
        self.ours, self.seen = ours, ""
        self.decode = codecs.getincrementaldecoder("utf-8")().decode  # what is read may end within a character

    def wait_for(self, pattern, seconds=60):
        """What is shown up to a pattern, without colours."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            ready = select.select([self.ours], [], [], max(0, end - time.monotonic()))[0]
            assert ready, f"waited for {pattern!r}, saw {self.seen!r}"
            self.read()
        shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return shown

    def read(self):
        try:
            data = os.read(self.ours, 65536)
        except OSError:  # how Linux says that nobody is left at the other end
            data = b""
        assert data, f"it ended, saw {self.seen!r}"
        self.seen += re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", self.decode(data))

    def type(self, text):
        os.write(self.ours, text.encode())

    def interrupt(self):
        """Ctrl-C at a prompt: readline overlooks one that comes before it has begun to wait for a key."""
        time.sleep(0.5)
        self.type("\x03")

    def end(self):
        code = self.process.wait(60)
        os.close(self.ours)
        return code
