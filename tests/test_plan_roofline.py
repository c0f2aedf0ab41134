import pytest

from deberta_jax.plan import roofline
from deberta_jax.plan.chips import Chip, topology_of
from deberta_jax.plan.collectives import Collective
from deberta_jax.plan.kernels import Kernel
from deberta_jax.plan.work import Work

V5E = topology_of("v5e:16x16")  # 197 TFLOP/s, 819 GB/s, 50 GB/s a link and direction


def message(kind="all-reduce", size=1e9, group=256, axes=(0, 1), times=1, overlapped=False) -> Collective:
    return Collective(kind, int(size), group, axes, not axes, times, overlapped, "")


def test_an_operation_takes_the_longer_of_its_two_limits():
    busy, moving = Work(197e9, 819_000, 1, False, None, "a"), Work(0.0, 819_000_000, 3, False, None, "b")
    found = roofline.estimate([busy, moving], [], V5E)
    assert found.products == pytest.approx(1e-3)
    assert found.memory == pytest.approx(3.001e-3)
    assert found.operations == found.step == pytest.approx(4e-3)


def test_copies_in_the_background_hide_until_the_memory_is_busy_all_the_time():
    busy, copy = Work(197e9, 0, 1, False, None, "a"), Work(0.0, 819_000, 1, True, None, "b")
    assert roofline.estimate([busy, copy], [], V5E).operations == pytest.approx(1e-3)
    assert roofline.estimate([busy, copy._replace(times=5000)], [], V5E).operations == pytest.approx(5e-3)


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (message(), 2 * 255 / 256 * 1e9 / 200e9),  # both axes closed: four links
        (message(axes=(1,), group=16), 2 * 15 / 16 * 1e9 / 100e9),
        (message("all-gather", axes=(0,), group=16), 15 / 16 * 1e9 / 100e9),
        (message("collective-permute", axes=(0,), group=2), 1e9 / 100e9),
    ],
)
def test_rings_on_a_closed_torus(sent, seconds):
    assert roofline.seconds(sent, V5E) == pytest.approx(seconds)


def test_an_axis_that_does_not_close_has_one_link():
    line = roofline.seconds(message(axes=(0,), group=8), topology_of("v5e:8x16"))
    assert line == pytest.approx(2 * 7 / 8 * 1e9 / 50e9)


def test_between_slices_each_chip_has_its_share_of_the_network():
    pair, sent = topology_of("v5e:16x16", slices=2), message("all-reduce between slices", group=2, axes=(), times=3)
    assert roofline.seconds(sent, pair) == pytest.approx(1e9 / 3.125e9)
    assert roofline.estimate([], [sent], pair).between_slices == pytest.approx(3 * 1e9 / 3.125e9)


def test_waiting_adds_and_hiding_does_not():
    busy = Work(197e10, 0, 1, False, None, "a")  # 10 ms
    beside, alone = message(overlapped=True), message(times=2)  # 9.96 ms, 19.9 ms
    found = roofline.estimate([busy], [beside, alone], V5E)
    assert found.hidden == pytest.approx(2 * 255 / 256 * 5e-3)
    assert found.step == pytest.approx(10e-3 + found.waiting)
    much = roofline.estimate([busy], [beside._replace(times=4)], V5E)
    assert much.step == pytest.approx(much.hidden) and much.hidden > much.operations


def test_every_chip_has_a_peak():
    assert Chip("TPU v5", 0, 0, 0, 3, 4, 0).flops == 459e12


def test_a_kernel_takes_what_its_schedule_does():
    kernel = Kernel("forward", 16 * 8, 512)
    found = roofline.estimate([Work(1e9, 1000, 23, False, kernel, "k")], [], V5E)
    assert found.operations == pytest.approx(23 * 16 * 8 * 4256 / 1.5e9)
