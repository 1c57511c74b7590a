import numpy as np
from builders import SECOND, rule, rule_log

from streams import shard_state
from streams.block import Block
from streams.chunk import Chunk, Seal
from streams.evaluate import SILENT_MS, Evaluate
from streams.records import Source

ONE, OTHER = Source("llm.calls", 0), Source("llm.calls", 1)
BEGIN = 1_790_000_000_000


def sealed(source: Source, version: int, watermark_ms: int, wall_ms: int) -> Chunk:
    return Chunk(source, 0, version, (), seal=Seal(watermark_ms, watermark_ms, wall_ms, 2, False, 0))


def test_the_old_clock_of_a_worker_that_was_stopped_makes_its_source_not_silent():
    shard, now = Evaluate(0, rule_log(rule(above=1))), BEGIN + 10 * SILENT_MS
    shard.take(sealed(ONE, 5, BEGIN, now))
    shard.take(sealed(OTHER, 9, BEGIN + 50 * SECOND, now))
    for version in (5, 6):
        shard.take(sealed(ONE, version, BEGIN, now - 2 * SILENT_MS))
        assert shard.silent == []
        shard.take(sealed(OTHER, 9 + version, BEGIN + 51 * SECOND, now + SECOND))
        assert shard.watermark_ms == BEGIN


def test_what_a_source_has_reported_is_not_taken_back():
    shard = Evaluate(0, rule_log(rule(above=1)))
    shard.take(sealed(ONE, 5, BEGIN + 10 * SECOND, BEGIN))
    shard.take(sealed(OTHER, 9, BEGIN + 5 * SECOND, BEGIN))
    shard.take(sealed(ONE, 5, BEGIN, BEGIN))
    shard.take(sealed(OTHER, 10, BEGIN + 10 * SECOND, BEGIN))
    assert shard.watermark_ms == BEGIN + 10 * SECOND


def test_a_restored_shard_still_knows_which_version_of_an_open_pane_it_has():
    counted = rule("Busy", above=2, window=10 * SECOND)
    log = rule_log(counted)
    view = counted.view

    def holding(version: int, calls: int) -> Chunk:
        columns = {field.name: np.array([calls], np.int64) for field in view.fields if field.kind == "count"}
        block = Block(
            view.hash, (("chat",),), np.zeros(1, np.int64), np.array([BEGIN], np.int64), columns, {}
        )
        return Chunk(ONE, 0, version, (block,))

    shard = Evaluate(0, log)
    shard.take(holding(10, 3))
    again = Evaluate.restored(shard_state.decode(shard_state.encode(shard.state())), log)
    again.take(holding(5, 1))
    assert again.state() == shard.state()
