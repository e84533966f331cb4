"""A partition log, whatever is done to it, is the list of its batches."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_disks import ForgetfulFiles
from log_world import World


@given(st.randoms(use_true_random=False))
@settings(
    max_examples=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
def test_a_log_is_the_list_of_its_batches(rng):
    world = World(ForgetfulFiles(), rng)
    for _ in range(40):
        world.step()
        world.verify()
