"""What the first signal does, and the next one."""

import signal
import time

import pytest

from deberta_jax.train import signals
from deberta_jax.train.signals import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_wish(number):
    with StopRequest() as stop:
        assert stop.name == ""
        signal.raise_signal(number)
        assert stop.name == number.name


def test_the_same_order_told_twice_is_one():
    """Ctrl-C reaches a whole process group, a scheduler signals every process, and a parent passes it on."""
    with StopRequest() as stop:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        assert stop.name == "SIGTERM"


def test_a_later_one_acts_as_it_always_did(monkeypatch):
    monkeypatch.setattr(signals, "ECHO", 0.01)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.05)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.name == "SIGTERM"


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with StopRequest():
        assert all(signal.getsignal(number) not in before for number in signals.SIGNALS)
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before
