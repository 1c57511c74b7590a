import pytest
import simulation_traffic as sim
from simulation_boundaries import BOUNDARIES
from simulation_broker import Broker
from simulation_oracle import bucket_of
from simulation_run import run_seed
from simulation_world import World

SEEDS = range(16)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_with_crashes_agrees_with_the_oracle(seed: int):
    totals = run_seed(seed)
    assert not totals.failed, f"replay it with: make simulate SEED={seed}"
    assert totals.faults["crash"] >= 3
    assert totals.compared["calls"] >= 500


def test_the_same_seed_leaves_the_same_logs():
    first, second = World(1), World(1)
    for world in (first, second):
        world.run()
    assert first.broker.logs == second.broker.logs
    assert first.inbox == second.inbox


def test_every_boundary_that_a_fault_can_strike_at_is_passed():
    passed = run_seed(0).visited
    for seed in (1, 2, 3):
        passed.update(run_seed(seed).visited)
    assert set(passed) <= set(BOUNDARIES)
    assert len(set(BOUNDARIES) - set(passed)) <= 2, set(BOUNDARIES) - set(passed)


def test_a_compacted_partition_has_the_newest_value_of_each_key():
    broker = Broker()
    for key, value in ((b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"b", None)):
        broker.append(("topic", 0), key, value)
    assert broker.live(("topic", 0)) == {b"a": b"2"}


def test_a_commit_of_a_generation_that_is_over_is_refused():
    world = World(0)
    group = world.broker.groups["ingest"]
    group.members = {0, 1}
    group.deal(world.rng)
    old = group.generation
    group.deal(world.rng)
    assert not group.commit(0, old, {})
    assert group.commit(0, group.generation, {})


def test_the_buckets_of_the_oracle_end_where_the_layout_does():
    assert bucket_of(0) == 0
    assert bucket_of(127) == 127
    assert bucket_of(1 << 40) == bucket_of(1 << 50)


def test_each_partition_gets_calls_and_the_last_ones_seal_the_others():
    made = World(2).traffic
    assert {partition for _, partition, _ in made.arrivals} == set(range(sim.PARTITIONS))
    assert len(made.arrivals) >= 500
    assert made.arrivals[-1][0] <= made.until_ms + 10
