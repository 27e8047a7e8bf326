"""How commands end: Ctrl-C, a reader of their output that is gone.

| what | what happens | exit status |
|---|---|---|
| Ctrl-C | one line | 130 |
| a second Ctrl-C | the process ends at once | that of SIGINT |
| stdout is a pipe that nobody reads any more | nothing is printed | 141 |

`swm_jax.train` saves at the first Ctrl-C, and goes on when nobody reads what it prints.
"""

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator
from types import FrameType

INTERRUPTED, UNREAD = 128 + signal.SIGINT, 128 + signal.SIGPIPE


@contextlib.contextmanager
def told_endings(stopped: str) -> Iterator[None]:
    """Context of a whole command that ends as the table says.

    Args:
      stopped: the line after Ctrl-C.
    """
    signal.signal(signal.SIGINT, _interrupted)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print(f"\n{stopped}", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # does not wait for threads; files are written atomically
    except BrokenPipeError:
        if not _unread():
            raise  # another pipe
        drop_output()
        sys.exit(UNREAD)


def say(text: str) -> None:
    """Prints a line; drops it, and all that follow, when nobody reads stdout."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        drop_output()


def drop_output() -> None:
    """Sends what is printed from here on, and what is buffered, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def end_at_next_interrupt() -> None:
    """Leaves the next SIGINT to the system, which ends the process at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interrupted(number: int, frame: FrameType | None) -> None:
    end_at_next_interrupt()
    raise KeyboardInterrupt


def _unread() -> bool:
    """Whether stdout is a pipe without a reader."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
