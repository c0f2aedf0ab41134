"""How a run ends: one exception per exit code, one line on standard error, no traceback for a user's mistake.

Every room may import this file; it imports nothing but the standard library.
"""

import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, a quota, a limit on files: nobody's bug
INTERRUPTED = 130  # as shells say of a program that Ctrl-C has ended


class RunError(Exception):
    """Base of all endings. `exit_code` is what the process returns."""

    exit_code = 1


class Failed(RunError):
    """Ran and failed."""

    exit_code = 1


class Refused(RunError):
    """Bad flags, config or data: says what, where, and the nearest right name."""

    exit_code = 2


class DoesNotFit(RunError):
    """The plan needs more memory than the device has."""

    exit_code = 3


class Diverged(RunError):
    """Too many steps with a non-finite loss or gradient."""

    exit_code = 4


class PeerDied(RunError):
    """Another process went away, or the watchdog fired."""

    exit_code = 5


class Stopped(RunError):
    """Stopped by a signal with its state saved: start the same command again."""

    exit_code = 75


def nearest(name: str, known: Iterable[str]) -> str:
    """A question to append, `, did you mean 'x'?`, for the closest of `known`; empty when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""


def refuse_remote(name: str, path: str) -> None:
    """Raises Refused where `name`, a key or a flag, is in a bucket: all are files but the workdir of train.py."""
    if "://" in path:
        raise Refused(f"{name}: {in_a_bucket(path)}")


def in_a_bucket(path: str) -> str:
    """What to do about what is there."""
    return f"{path} is a bucket, this must be files: mount it (gcsfuse) or copy it, and name that folder"


def line_of(error: RunError) -> str:
    """How a run says its ending."""
    return f"{type(error).__name__.lower()}: {' '.join(str(error).split())}"


def run(main: Callable[[list[str]], None], argv: list[str]) -> int:
    """Calls `main(argv)`; a RunError, a full disk, a closed pipe or Ctrl-C ends it in one line with an exit code."""
    try:
        main(argv)
        sys.stdout.flush()
    except RunError as error:
        print(line_of(error), file=sys.stderr)
        return error.exit_code
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's own end would complain once more
        print(f"failed: {error.strerror}: whoever reads the output has closed it", file=sys.stderr)
        return Failed.exit_code
    except KeyboardInterrupt:
        print("failed: interrupted; what was not saved is lost", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"failed: {error.strerror}: {error.filename or 'a file that was being written'}", file=sys.stderr)
        return Failed.exit_code
    return 0
