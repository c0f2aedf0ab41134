"""What Orbax says besides when a save fails: a screen of tracebacks, around the one line that tells it.

Of the writes of a state it waits for the first that fails, leaves the others on an event loop and closes that. Each
then complains for itself: in the log of Orbax or of asyncio, from a thread of tensorstore, or when it is thrown away.
"""

import logging
import sys
from types import CoroutineType


def hush_orbax() -> None:
    """Takes these complaints out of the logs and the hook of this process. The failure itself is raised as always."""
    if _not_of_orbax in logging.getLogger("absl").filters:
        return
    logging.getLogger("absl").addFilter(_not_of_orbax)
    logging.getLogger("asyncio").addFilter(_not_left_over)
    sys.unraisablehook = _without_left_over(sys.unraisablehook)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in record.pathname)


def _not_left_over(record: logging.LogRecord) -> bool:
    return all(words not in str(record.msg) for words in ("was never retrieved", "was destroyed but it is pending"))


def _without_left_over(hook, coroutine=CoroutineType):  # bound here: at the end of a process modules are empty
    def unraisablehook(unraisable) -> None:
        found = unraisable.object
        of_orbax = isinstance(found, coroutine) and "orbax" in found.cr_code.co_filename
        if not of_orbax and str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    return unraisablehook
