"""Settings and fixtures of the whole suite.

Hypothesis runs without deadlines, since the machine's speed is not under test. Of each broker there is one process
for the whole run, so tests that use one name their topics and groups uniquely.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from kafka_node import KafkaCluster, KafkaUnavailableError, kafka_is_required

from streams.broker import EmbeddedBroker

settings.register_profile("tocsin", deadline=None, print_blob=True)
# A run of CI is repeatable: the same examples each time, and no example database.
settings.register_profile("ci", parent=settings.get_profile("tocsin"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "tocsin")


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
