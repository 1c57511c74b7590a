"""Settings and fixtures of the whole suite.

Hypothesis runs without deadlines, since the machine's speed is not under test. Of each broker there is one process
for the whole run (one in each process of `pytest -n`), so tests that use one name their topics and groups uniquely.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from kafka_node import KafkaCluster, KafkaUnavailableError, kafka_is_required

from streams.broker import EmbeddedBroker

settings.register_profile("tocsin", deadline=None, print_blob=True)
# A run of CI is repeatable: the same examples each time, and no example database.
settings.register_profile("ci", parent=settings.get_profile("tocsin"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "tocsin")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For several processes (`--dist loadgroup`): what shares a costly fixture stays in one, long tests start first.

    Within that the order stays as it is, random. With a plain `--cov`, only the tests that hold up the coverage fence
    are traced: tracing nearly doubles the time of the others.
    """
    for item in items:
        group = _group(item)
        if group is not None:
            item.add_marker(pytest.mark.xdist_group(group))
        if config.getoption("cov_source", []) == [True] and not _holds_up_the_fence(item):
            item.add_marker(pytest.mark.no_cover)
    items.sort(key=_rank)


def _group(item: pytest.Item) -> str | None:
    """Tests of one name run in one process: those on one Apache Kafka, and else those of one file.

    A test on the embedded broker, which starts in no time, is on its own.
    """
    fixtures = _fixtures(item)
    for shared in ("apache_kafka", "own_kafka"):
        if shared in fixtures:
            return shared
    return None if item.get_closest_marker("embedded") else item.path.stem


def _rank(item: pytest.Item) -> int:
    """Tests that wait for brokers and workers come first, so that the others fill the waiting."""
    if item.get_closest_marker("kafka"):
        return 0
    return 1 if item.get_closest_marker("embedded") else 2


def _fixtures(item: pytest.Item) -> set[str]:
    """Names of fixtures, also of those that a parameter names (`broker`)."""
    assert isinstance(item, pytest.Function)
    given = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return {*item.fixturenames, *(each for each in given if isinstance(each, str))}


def _holds_up_the_fence(item: pytest.Item) -> bool:
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    return folder in {"rules", "edge", "notifiers"} or item.path.name in {"test_windows.py", "test_panes.py"}


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[str]:
    """HOST:PORT of an embedded broker."""
    with EmbeddedBroker() as broker:
        yield broker.address


@pytest.fixture(scope="session")
def apache_kafka() -> Iterator[str]:
    """HOST:PORT of one Apache Kafka node.

    Without Java or Maven the test is skipped, or fails when TOCSIN_TEST_REQUIRE_KAFKA=1.
    """
    try:
        cluster = KafkaCluster()
    except KafkaUnavailableError as error:
        if kafka_is_required():
            raise
        pytest.skip(str(error))
    with cluster:
        yield cluster.bootstrap
