import math

import pytest

from deberta_jax.errors import Refused
from deberta_jax.plan.chips import CHIPS, topology_of


@pytest.mark.parametrize(("name", "chips"), [("v5e:16x16", 256), ("v5p:4x4x4", 64), ("v6e:1x1", 1), ("v4:2x2x4", 16)])
def test_slices_by_name(name, chips):
    topology = topology_of(name)
    assert (topology.chips, math.prod(topology.shape)) == (chips, chips)
    assert topology_of(name, slices=3).chips == 3 * chips


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e", "CHIP:SIZExSIZE"),
        ("v5e-256", "CHIP:SIZExSIZE"),
        ("v5x:4x4", "did you mean 'v5"),
        ("v5p:8x8", "have 3 axes"),
        ("v5e:4x4x4", "have 2 axes"),
    ],
)
def test_others_are_refused_with_the_right_form(name, said):
    with pytest.raises(Refused, match=said):
        topology_of(name)


def test_links_add_up_to_the_published_bandwidth_of_a_chip():
    """Both directions of all links, in GB/s: 400 (v5e), 800 (v6e), 1200 (v5p), and 600 of v4's six at 50."""
    both = {name: 2 * 2 * chip.axes * chip.link / 1e9 for name, chip in CHIPS.items()}
    assert both == {"v4": 600, "v5e": 400, "v5p": 1200, "v6e": 800}
