"""What ended a run, from what it printed."""

from deberta_jax.errors import RunError

ENDINGS = {kind.__name__.lower() for kind in RunError.__subclasses__()}  # how errors.line_of begins


def error_in(log: str) -> str:
    """What ended a run: its own last words, else the error of the last traceback, else the last line; "" of no log.

    After a traceback the last line may be a note, or the end of a long message.
    """
    lines = [line.rstrip() for line in log.replace("\r", "\n").split("\n")]  # a progress bar returns
    last = next((line.strip() for line in reversed(lines) if line), "")
    if ending_of(last):
        return last
    traces = [number for number, line in enumerate(lines) if line.startswith("Traceback ")]
    after = lines[traces[-1] + 1 :] if traces else []
    return next((line for line in after if line and not line.startswith(" ")), last)


def ending_of(line: str) -> str:
    """The ending that a run's last line says, as "stopped" of "stopped: SIGTERM at step 7"; "" of any other line."""
    word = line.partition(":")[0]
    return word if word in ENDINGS else ""
