"""Topic ids and partition counts: Metadata version 10, which aiokafka (up to version 5) does not speak itself."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any, Final

from aiokafka.errors import KafkaError, NodeNotReadyError, RequestTimedOutError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

ANSWER_SECONDS: Final = 5.0


class _Uuid(AbstractType[uuid.UUID]):  # type: ignore[misc]  # aiokafka has no types
    @classmethod
    def encode(cls, value: uuid.UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: Any) -> uuid.UUID:
        return uuid.UUID(bytes=data.read(16))


class _TopicIdResponse(Response):  # type: ignore[misc]  # as above
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _TopicIdRequestStruct(RequestStruct):  # type: ignore[misc]  # as above
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _TopicIdResponse
    FLEXIBLE_VERSION = True
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _TopicIdRequest(Request[_TopicIdRequestStruct]):  # type: ignore[misc]  # as above
    """Metadata, version 10: the first that names topic ids; aiokafka's own request ends at version 5."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_TopicIdRequestStruct]) -> _TopicIdRequestStruct:
        named: list[tuple[uuid.UUID, str, dict[int, bytes]]] = [
            (uuid.UUID(int=0), topic, {}) for topic in self._topics
        ]
        return request_struct_class(named, False, False, False, {})


async def describe_topics(client: Any, topics: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Id and number of partitions of the topics that exist; asking creates none.

    `client` is the low-level client inside a consumer, producer or admin client.
    """
    response = await _ask(client, _TopicIdRequest(topics))
    return {
        name: (topic_id.hex, len(partitions))
        for error, name, topic_id, _, partitions, *_ in response.topics
        if error == 0
    }


async def partitions_without_leader(client: Any, topics: Sequence[str]) -> list[str]:
    """`topic/partition` of every partition that no broker leads: it can be neither read nor written."""
    response = await _ask(client, _TopicIdRequest(topics))
    return [
        f"{name}/{number}"
        for error, name, _, _, partitions, *_ in response.topics
        if error == 0
        for _, number, leader, *_ in partitions
        if leader < 0
    ]


async def _ask(client: Any, request: _TopicIdRequest) -> Any:
    """The answer of any broker: one that is down, or that does not answer, must not stand for the cluster.

    Raises:
        KafkaError: no broker answers.
    """
    first = client.get_random_node()
    nodes = sorted((broker.nodeId for broker in client.cluster.brokers()), key=lambda node: node != first)
    failure: KafkaError = NodeNotReadyError("no broker is known")
    for node in nodes:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await client.send(node, request)
        except KafkaError as error:
            failure = error
        except TimeoutError:
            failure = RequestTimedOutError(f"no answer of broker {node} within {ANSWER_SECONDS:g} s")
    raise failure
