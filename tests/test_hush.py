import asyncio
import logging
import sys
from types import CodeType, SimpleNamespace

import pytest

from deberta_jax.train import hush


async def left_over():
    """A write that is never run."""


def of_file(name: str) -> CodeType:
    return left_over.__code__.replace(co_filename=name)


@pytest.fixture
def heard(monkeypatch) -> list:
    """What reaches the hook that was there before."""
    heard = []
    for name in ("absl", "asyncio"):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: heard.append(unraisable.exc_value))
    hush.hush_orbax()
    hush.hush_orbax()  # twice is once
    return heard


def test_only_what_a_failed_save_leaves_over_is_not_said(heard, monkeypatch):
    closed, other = RuntimeError("Event loop is closed"), RuntimeError("another")
    monkeypatch.setattr(left_over, "__code__", of_file("lib/orbax/checkpoint/serialization.py"))
    of_orbax = left_over()
    monkeypatch.setattr(left_over, "__code__", of_file("lib/other.py"))
    of_another = left_over()
    for error, coroutine in [(closed, None), (other, of_orbax), (other, None), (other, of_another)]:
        sys.unraisablehook(SimpleNamespace(object=coroutine, exc_value=error))
    assert heard == [other, other]
    of_orbax.close(), of_another.close()


def test_the_logs_of_orbax_and_asyncio_keep_everything_else(heard, caplog):
    try:
        raise OSError("full")
    except OSError as error:
        fault = (OSError, error, None)
    for path, fault_or_none in [("orbax/future.py", fault), ("orbax/future.py", None), ("grain/reader.py", fault)]:
        logger = logging.getLogger("absl")
        logger.handle(logger.makeRecord("absl", logging.ERROR, path, 1, path, (), fault_or_none))

    async def fails() -> None:
        asyncio.get_running_loop().call_exception_handler({"message": "Task exception was never retrieved"})
        asyncio.get_running_loop().call_exception_handler({"message": "another"})

    asyncio.run(fails())
    assert [record.getMessage() for record in caplog.records] == ["orbax/future.py", "grain/reader.py", "another"]
