"""Every limit on what comes from outside, each with an input beyond it: see the table in docs/security.md."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from aiohttp import web
from builders import call, records, rule, rule_log
from transitions import notification, runbook, transition

from notifiers.bounded_answer import LARGEST_ANSWER
from notifiers.delivery import Ambiguous, Delivered
from notifiers.message import MAX_PAYLOAD, build_message
from notifiers.runbook import RunbookError
from notifiers.runbook_files import MAX_PAGE_BYTES, load_runbooks
from notifiers.slack import SlackBot, SlackWebhook
from rules.document import DEEPEST_NESTING, LARGEST_FILE
from rules.files import LARGEST_SET, MOST_FILES, read_what_can_be
from rules.loader import RuleFile, parse_rule_files
from rules.problem import MOST_PROBLEMS, InvalidFilesError, Problem
from rules.visible import LONGEST_TEXT, visible
from streams import alert_record, call_files, chunk, notify, shard_state, snapshot
from streams import rule_log as rules_topic
from streams.alert_record import AlertRecordError
from streams.call import ID_CHARACTERS, Reader
from streams.call_files import CallFile, CallFileError
from streams.chunk import Chunk, ChunkError
from streams.dictionary import DIMENSION_CHARACTERS, Dictionary
from streams.event import describe, show
from streams.ingest import Ingest, IngestConfig
from streams.logs import LONGEST_MESSAGE_LINES, LONGEST_TRACE_LINE, OneLine
from streams.needs import Needs
from streams.notify import Notify
from streams.price_book import PriceBook
from streams.price_file import read_price_file
from streams.pricing import Pricer
from streams.recent import Recent
from streams.records import Source
from streams.settings import load_settings
from streams.shard_state import StateError
from streams.snapshot import MOST_CHUNKS, Manifest, Snapshots, chunk_entries, manifest_entry
from streams.spend import BatchPricer

DEEP = 200_000


def reader(*labels: str) -> Reader:
    needs = Needs(frozenset({"feature", "labels", "finish_reason"}), frozenset(labels))
    return Reader(needs, BatchPricer(Pricer(PriceBook())))


def nested(depth: int = DEEP) -> bytes:
    return b"[" * depth + b"]" * depth


# Records of the calls topic


@pytest.mark.parametrize("place", ["x", "labels", "parameters", "stages_ms", "scores", "tokens", "error"])
def test_a_call_nested_200_000_deep_is_read_or_rejected_and_never_an_exception(place: str) -> None:
    value = b'{"model":"m","at":1700000000000,"' + place.encode() + b'":' + nested() + b"}"
    batch, rejected = reader("x").read(records([value]))
    assert len(batch) + len(rejected) == 1


def test_a_call_that_is_too_deep_to_describe_shows_nothing() -> None:
    value = b'{"model":"m","x":' + nested() + b"}"
    assert describe(value) == ({}, ())
    assert dict(show(value)) == {}


def at_depth(frames: int, work: Callable[[], Any]) -> Any:
    return work() if frames == 0 else at_depth(frames - 1, work)


def test_what_is_read_near_the_end_of_the_stack_can_be_shown_nearer_to_it() -> None:
    """A call whose depth fits where it is read must not fail where it is shown, at any depth of the stack."""
    for depth in range(50, sys.getrecursionlimit(), 25):
        value = b'{"model":"m","x":' + nested(depth) + b"}"
        assert isinstance(dict(at_depth(100, lambda value=value: show(value))), dict)


def test_a_megabyte_of_dimension_is_cut_and_not_remembered_whole() -> None:
    known = Dictionary()
    long = "v" * 1_000_000
    assert known[long] == known[long] == 0
    assert known.values_by_code == ["v" * DIMENSION_CHARACTERS]
    assert all(len(key) <= DIMENSION_CHARACTERS for key in known)


def test_long_ids_are_remembered_as_hashes_and_still_count_once() -> None:
    log = rule_log(rule(above=1))
    ingest = Ingest(IngestConfig(), log, lambda: BatchPricer(Pricer(PriceBook())))
    source = Source("llm.calls", 0)
    ingest.assign(source, None)
    long = "i" * 900_000
    ingest.take(records([call(id=long), call(id=long), call(id=long + "j"), call(id="short")]))
    assert (ingest.counts.accepted, ingest.counts.duplicates) == (3, 1)
    seen = {one for ids in ingest._sources[source].ids.values() for one in ids}
    assert len(seen) == 3
    assert max(map(len, seen)) <= ID_CHARACTERS


def test_dictionaries_are_forgotten_once_they_are_too_large() -> None:
    log = rule_log(rule(above=1))
    config = IngestConfig(known_series=100, series_per_pane=50)
    ingest = Ingest(config, log, lambda: BatchPricer(Pricer(PriceBook())))
    source = Source("llm.calls", 0)
    ingest.assign(source, None)
    for first in range(0, 1_000, 100):
        features = [call(feature=f"f{number}") for number in range(first, first + 100)]
        ingest.take(records(features, first))
    sizes = [len(known) for known in ingest._sources[source].reader.dictionaries.values()]
    assert max(sizes) <= 200


def test_50_000_labels_of_a_call_show_32_short_ones() -> None:
    labels = {f"{'n' * 300}{number}": "v" * 300 for number in range(50_000)}
    shown, _ = describe(json.dumps({"model": "m", "labels": labels}).encode())
    assert len(shown["labels"]) <= 32  # type: ignore[arg-type]
    assert len(json.dumps(shown)) < 32 * 500


def test_a_reason_for_rejecting_is_at_most_500_characters() -> None:
    value = json.dumps({"model": "m", "status": "s" * 100_000}).encode()
    _, [rejected] = reader().read(records([value]))
    assert len(rejected.reason) <= 500


@pytest.mark.parametrize("number", [b"1e400", b"9" * 5_000, b"-1", b"1e308", b"NaN"])
def test_numbers_beyond_their_range_are_rejected(number: bytes) -> None:
    value = b'{"model":"m","at":1700000000000,"latency_ms":' + number + b"}"
    batch, rejected = reader().read(records([value]))
    assert (len(batch), len(rejected)) == (0, 1)


# Records of the topics that Tocsin writes itself, written by someone else


def deep_alert() -> bytes:
    record = alert_record.to_json(transition())
    record["exemplars"] = [{"at": record["at"], "source": "s", "offset": 1, "value": 1, "call": {"x": 0}}]
    return json.dumps(record).encode().replace(b'"x": 0', b'"x": ' + nested())


@pytest.mark.parametrize(
    "value", [nested(), b'{"id":"\xff"}', b"\xff", b"", b"{}", b"null", deep_alert()], ids=range(7)
)
def test_records_that_are_not_ours_are_errors_that_their_reader_expects(value: bytes) -> None:
    with pytest.raises(AlertRecordError):
        alert_record.decode(value)
    for decode in (notify.decode, rules_topic.decode):
        with pytest.raises(msgspec.MsgspecError):
            decode(value)
    with pytest.raises(ChunkError):
        chunk.decode(value)
    with pytest.raises(StateError):
        shard_state.decode(value)


def test_an_id_of_an_alert_that_would_be_remembered_is_bounded() -> None:
    record = alert_record.to_json(transition()) | {"id": "i" * 201}
    with pytest.raises(AlertRecordError, match="length <= 200"):
        alert_record.decode(json.dumps(record).encode())


def test_numbers_of_a_panes_record_beyond_64_bits_are_refused() -> None:
    empty = chunk.encode(Chunk(Source("llm.calls", 0), 0, 5, ()))
    wire = msgspec.msgpack.decode(empty)
    wire["blocks"] = [["view", [["a"]], b"\0\0\0\0", b"\0" * 8, {}, {}, [[(1 << 64) - 1, "f", 0, 0, 0, {}]]]]
    with pytest.raises(ChunkError):
        chunk.decode(msgspec.msgpack.encode(wire))


def test_arrays_of_a_panes_record_that_do_not_fit_together_are_refused() -> None:
    empty = chunk.encode(Chunk(Source("llm.calls", 0), 0, 5, ()))
    wire = msgspec.msgpack.decode(empty)
    for block in (
        ["view", [["a"]], b"\0\0\0\0", b"\0" * 16, {}, {}, []],
        ["view", [["a"]], b"\7\0\0\0", b"\0" * 8, {}, {}, []],
        ["view", [["a"]], b"\0\0\0", b"\0" * 8, {}, {}, []],
    ):
        wire["blocks"] = [block]
        with pytest.raises(ChunkError):
            chunk.decode(msgspec.msgpack.encode(wire))


def test_a_snapshot_that_would_unpack_to_more_than_a_state_is_not_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshot, "LARGEST_BYTES", 1 << 20)
    chunks = chunk_entries(b"\0" * (8 << 20), 7, "g")
    manifest = manifest_entry(chunks, 0, 7, "g")
    snapshots = Snapshots(0, {each.key: each.value or b"" for each in (*chunks, manifest)}, "g")
    assert snapshots.newest() is None
    [problem] = snapshots.problems
    assert "larger than 1,048,576 bytes" in problem


def test_a_snapshot_without_its_size_is_not_unpacked() -> None:
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(b"state")
    chunks = [snapshot.Entry(b"chunk/00000000000000000007/g/000000", packed)]
    manifest = manifest_entry(chunks, 0, 7, "g")
    snapshots = Snapshots(0, {each.key: each.value or b"" for each in (*chunks, manifest)}, "g")
    assert snapshots.newest() is None
    assert "does not say how large it is" in snapshots.problems[0]


def test_a_manifest_with_a_trillion_chunks_is_refused() -> None:
    forged = Manifest(shard=0, offset=7, generation="g", chunks=10**12, size=1, sha256="")
    snapshots = Snapshots(0, {b"manifest/00000000000000000007/g": msgspec.json.encode(forged)}, "g")
    assert snapshots.newest() is None
    assert f"({MOST_CHUNKS:,})" in snapshots.problems[0]


def test_foreign_keys_in_the_snapshots_topic_are_neither_read_nor_removed() -> None:
    foreign = {
        b"manifest/x/g": b"",
        b"": b"",
        b"manifest/": b"",
        b"\xff": b"",
        b"manifest/00000000000000000009/\xff": b"",
    }
    snapshots = Snapshots(0, foreign, "g")
    assert snapshots.newest() is None
    assert snapshots.problems == []
    for offset in range(1, 6):
        _, _, removed = snapshots.take(b"state", offset, 0)
        assert not {each.key for each in removed} & set(foreign)


def test_ids_that_were_seen_are_remembered_in_bounded_memory_and_the_used_ones_longest() -> None:
    recent = Recent(3)
    for text in ("a", "b", "c"):
        recent.add(text)
    assert "a" in recent
    recent.add("d")
    assert [text for text in "abcd" if text in recent] == ["a", "c", "d"]
    assert len(recent) == 3


def test_notify_remembers_ids_in_such_a_set() -> None:
    stage = Notify([])
    assert isinstance(stage._seen, Recent)
    assert isinstance(stage._ended, Recent)
    assert isinstance(stage._logged, Recent)


# Files


def problems_of(text: str) -> tuple[Problem, ...]:
    with pytest.raises(InvalidFilesError) as raised:
        parse_rule_files([RuleFile("rules.yaml", text)], [])
    return raised.value.problems


def test_a_rule_file_of_more_than_a_mebibyte_and_one_nested_too_deeply_are_refused() -> None:
    assert "larger than 1 MiB" in str(problems_of("#" * (LARGEST_FILE + 1))[0])
    assert f"nested deeper than {DEEPEST_NESTING}" in str(problems_of("[" * 100_000)[0])


def test_more_problems_than_anyone_reads_are_counted() -> None:
    text = "version: 1\n" + "".join(f"k{number}: 1\n" for number in range(MOST_PROBLEMS + 500))
    found = problems_of(text)
    assert len(found) == MOST_PROBLEMS + 1
    assert "more problems are not shown" in str(found[0] if found[0].file == "..." else found[-1])


def test_what_a_rule_file_says_cannot_write_to_the_terminal() -> None:
    text = r'"\e]0;title\a\u202etfel\n::error::forged": 1' + "\nversion: 1\ngroups: []\n"
    for problem in problems_of(text):
        assert str(problem).isprintable()


def test_a_thousand_rule_files_and_800_000_bytes_are_the_most(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.yaml").write_text("#" * 300_000)
    _, [problem] = read_what_can_be(["*.yaml"], tmp_path)
    assert f"{LARGEST_SET:,} fit into one rule set" in problem.cause
    many = tmp_path / "many"
    many.mkdir()
    for number in range(MOST_FILES + 1):
        (many / f"{number}.yaml").touch()
    files, [problem] = read_what_can_be([many], tmp_path)
    assert files == []
    assert "1,001 rule files" in problem.cause


def test_a_settings_file_of_more_than_a_mebibyte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tocsin.yaml"
    path.write_text("#" * (LARGEST_FILE + 10))
    with pytest.raises(InvalidFilesError, match="larger than 1 MiB"):
        load_settings(path)


@pytest.mark.parametrize("variable", ["TOCSIN_RECEIVERS", "TOCSIN_ROUTES"])
def test_a_variable_nested_too_deeply_is_a_problem(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "[" * 100_000)
    with pytest.raises(InvalidFilesError, match="nested too deeply"):
        load_settings(None)


def test_receivers_and_routes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOCSIN_RECEIVERS", json.dumps({f"r{i}": {"console": {}} for i in range(101)}))
    monkeypatch.setenv("TOCSIN_ROUTES", json.dumps([{"to": ["r1"]}] * 1_001))
    with pytest.raises(InvalidFilesError) as raised:
        load_settings(None)
    assert len(raised.value.problems) == 2


def test_a_price_file_of_more_than_4_000_000_bytes_and_one_nested_too_deeply_are_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("#" * 4_000_001)
    with pytest.raises(InvalidFilesError, match="larger than 4,000,000 bytes"):
        read_price_file(path)
    path.write_text("[" * 100_000)
    with pytest.raises(InvalidFilesError, match=r"nested too deeply|not YAML"):
        read_price_file(path)


def test_a_runbook_page_of_more_than_256_kib_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("x" * (MAX_PAGE_BYTES + 1))
    with pytest.raises(RunbookError, match="larger than 256 KiB"):
        load_runbooks(tmp_path)


# Files of calls


def packed(tmp_path: Path, kind: str, content: bytes) -> str:
    path = tmp_path / "calls"
    path.write_bytes(gzip.compress(content) if kind == "gzip" else zstandard.compress(content, 19))
    return str(path)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_compressed_line_without_an_end_is_cut_while_it_is_read(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_files, "LINE_BYTES", 1 << 16)
    name = packed(tmp_path, kind, b'{"model":"' + b"a" * (64 << 20) + b'"}\n{"model":"m"}\n')
    assert (tmp_path / "calls").stat().st_size < 1 << 17
    with contextlib.closing(CallFile(name)) as file:
        values = [value for batch in file.batches() for value in batch.values]
    assert max(len(value or b"") for value in values) <= 1 << 16
    assert values[-1] == b'{"model":"m"}'


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_batch_of_long_lines_ends_by_its_bytes(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_files, "BATCH_BYTES", 1 << 20)
    name = packed(tmp_path, kind, (b"a" * (1 << 18) + b"\n") * 64)
    with contextlib.closing(CallFile(name)) as file:
        sizes = [sum(map(len, batch.values)) for batch in file.batches()]  # type: ignore[arg-type]
    assert sizes == [1 << 20] * 16


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08broken", b"\x28\xb5\x2f\xfd broken"])
def test_a_file_that_only_begins_like_a_compressed_one_is_an_error_in_words(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "calls"
    path.write_bytes(content)
    with (
        contextlib.closing(CallFile(str(path))) as file,
        pytest.raises(CallFileError, match="cannot be read to its end"),
    ):
        list(file.batches())


# Answers of Slack


@pytest.fixture
async def answer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[bytes, str], Any]]:
    """Starts a server that answers every request with some bytes; the function gives its URL."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    runners: list[web.AppRunner] = []

    async def start(body: bytes, content_type: str) -> str:
        async def handle(_: web.Request) -> web.Response:
            return web.Response(body=body, headers={"Content-Type": content_type})

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/"

    yield start
    for runner in runners:
        await runner.cleanup()


BODIES = {
    "too large": (b" " * (LARGEST_ANSWER + 1), "application/json", "the connection was lost"),
    "nested too deeply": (nested(), "application/json", "the answer could not be read"),
    "no text": (b'{"ok": "\xff"}', "application/json; charset=utf-8", "the answer could not be read"),
    "a list": (b"[1]", "application/json", "the answer could not be read"),
}


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize("kind", ["bot", "webhook"])
async def test_an_answer_beyond_bounds_is_ambiguous(
    answer: Callable[[bytes, str], Any], case: str, kind: str
) -> None:
    body, content_type, reason = BODIES[case]
    url = await answer(body, content_type)
    receiver = (
        SlackBot("r", channel="#c", token="xoxb-x", api_url=url)
        if kind == "bot"
        else SlackWebhook("r", url=url)
    )
    message = build_message(transition(), runbook(), None, None, notification().id)
    async with asyncio.timeout(20):
        outcome = await receiver.deliver(notification(), message)
    assert outcome == Ambiguous(reason)


async def test_a_receipt_is_shown_as_text(answer: Callable[[bytes, str], Any]) -> None:
    url = await answer(
        json.dumps({"ok": True, "channel": "\x1b[2J" + "c" * 500, "ts": "1"}).encode(), "application/json"
    )
    receiver = SlackBot("r", channel="#c", token="xoxb-x", api_url=url)
    message = build_message(transition(), runbook(), None, None, notification().id)
    outcome = await receiver.deliver(notification(), message)
    assert isinstance(outcome, Delivered)
    assert outcome.receipt.isprintable()
    assert len(outcome.receipt) < 250


def test_a_message_keeps_its_size_whatever_the_series_says() -> None:
    big = tuple((f"labels.{'n' * 200}{number}", "<!channel>" * 5_000) for number in range(50))
    message = build_message(transition(series=big), runbook(), None, None, notification().id)
    assert len(json.dumps(message.blocks)) <= MAX_PAYLOAD
    assert "<!channel>" not in json.dumps(message.blocks)


# Logs and terminals


def logged(message: str, *arguments: object, error: BaseException | None = None) -> str:
    formatter = OneLine("%(levelname)s %(message)s")
    trace = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("tocsin", logging.ERROR, __file__, 1, message, arguments, trace)
    return formatter.format(record)


def test_a_log_line_that_quotes_a_record_cannot_start_another_or_move_the_cursor() -> None:
    line = logged("not a panes record: %s", "x\n2026-01-05T00:00:00.000Z INFO forged\r\x1b[2J\u202e")
    assert [each for each in line.split("\n")[1:] if not each.startswith("  ")] == []
    assert all(each.isprintable() for each in line.split("\n"))


def test_a_log_line_is_cut() -> None:
    assert len(logged("%s", "x" * 1_000_000)) < LONGEST_TEXT + 20
    assert len(logged("%s", "x\n" * 1_000_000).split("\n")) <= LONGEST_MESSAGE_LINES + 1


def test_a_traceback_in_the_log_is_indented_and_cut() -> None:
    try:
        raise ValueError("y" * 100_000 + "\n2026-01-05T00:00:00.000Z INFO forged\x1b[2J")
    except ValueError as error:
        text = logged("failed", error=error)
    lines = text.split("\n")[1:]
    assert all(line.startswith("  ") and line.isprintable() for line in lines)
    assert max(map(len, lines)) <= LONGEST_TRACE_LINE + 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\nb\x1b[0m", r"a\nb\x1b[0m"),
        ("\u202e\ud800\u2028", r"\u202e\ud800\u2028"),
        ("größe 価格", "größe 価格"),
        ("x" * 30, "x" * 19 + "…"),
    ],
)
def test_visible_text_is_one_printable_line(text: str, shown: str) -> None:
    assert visible(text, 20) == shown


def test_arrays_are_little_more_than_their_records() -> None:
    """Decoding a panes record cannot take many times its bytes: counts are in the bytes, not announced by them."""
    wire = msgspec.msgpack.decode(chunk.encode(Chunk(Source("llm.calls", 0), 0, 5, ())))
    rows = np.zeros(10_000, "<u4").tobytes()
    starts = np.zeros(10_000, "<i8").tobytes()
    wire["blocks"] = [["view", [["a"]], rows, starts, {}, {}, []]]
    [block] = chunk.decode(msgspec.msgpack.encode(wire)).blocks
    assert len(block) == 10_000
