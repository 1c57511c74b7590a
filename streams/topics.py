"""The topics that Tocsin uses: how they must be, creating those that are missing, checking those that are there."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError

from rules.view import SHARDS
from streams.kafka import connection_arguments, start_client, stop_client
from streams.settings import Settings
from streams.topic_ids import describe_topics

_log: Final = logging.getLogger(__name__)

_DAY_MS: Final = 86_400_000
_VISIBLE_SECONDS: Final = 10.0


class TopicError(Exception):
    """Topics that cannot be used as they are; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic as Tocsin creates it."""

    name: str
    partitions: int
    config: tuple[tuple[str, str], ...]
    purpose: str
    fixed: bool = True
    """Whether the number of partitions must be exactly this."""


def planned_topics(settings: Settings) -> tuple[TopicPlan, ...]:
    """Every topic of a configuration."""
    # The broker's clock stamps calls: a producer whose clock is wrong is seen, and cannot seal what others still send.
    calls = (("message.timestamp.type", "LogAppendTime"), ("retention.ms", str(3 * _DAY_MS)))
    compacted = (("cleanup.policy", "compact"),)
    kept = (("cleanup.policy", "compact,delete"), ("retention.ms", str(30 * _DAY_MS)))
    names = settings.topics
    return (
        *(
            TopicPlan(
                name, settings.calls.partitions, calls, "calls, as applications publish them", fixed=False
            )
            for name in settings.calls.topics
        ),
        TopicPlan(
            names.rejected, 1, (("retention.ms", str(7 * _DAY_MS)),), "records that are no calls", fixed=False
        ),
        TopicPlan(names.rules, 1, compacted, "rule sets, and from when each holds"),
        TopicPlan(
            names.panes, SHARDS, (("retention.ms", str(3 * _DAY_MS)),), "panes, one partition per shard"
        ),
        TopicPlan(names.snapshots, SHARDS, compacted, "state of each shard, to go on from after a restart"),
        TopicPlan(names.alerts, 1, kept, "transitions of alerts"),
        TopicPlan(names.notifications, 1, kept, "what was sent, to whom, and why or why not"),
    )


async def create_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing, and wait until every broker's metadata shows them; their names.

    Raises:
        TopicError: a topic that exists cannot be used, or one could not be created.
    """
    admin = await start_client(lambda: _admin(settings), settings, asyncio.Event())
    if admin is None:  # only when stopping, which nobody can here
        return []
    try:
        plans = planned_topics(settings)
        present = await describe_topics(admin._client, [plan.name for plan in plans])  # noqa: SLF001 - no public way
        missing = [plan for plan in plans if plan.name not in present]
        await _create(admin, missing, settings.kafka.replication)
        await _wait_until_visible(admin, [plan.name for plan in missing])
        await _check(admin, plans)
        return [plan.name for plan in missing]
    finally:
        await stop_client(admin)


async def existing_topics(settings: Settings) -> dict[str, int | None]:
    """Partitions of every planned topic, None where it does not exist."""
    admin = await start_client(lambda: _admin(settings), settings, asyncio.Event())
    if admin is None:
        return {}
    try:
        plans = planned_topics(settings)
        present = await describe_topics(admin._client, [plan.name for plan in plans])  # noqa: SLF001 - no public way
        return {plan.name: present[plan.name][1] if plan.name in present else None for plan in plans}
    finally:
        await stop_client(admin)


def _admin(settings: Settings) -> AIOKafkaAdminClient:
    return AIOKafkaAdminClient(**connection_arguments(settings), client_id="tocsin-topics")


async def _create(admin: AIOKafkaAdminClient, plans: list[TopicPlan], replication: int) -> None:
    if not plans:
        return
    new = [
        NewTopic(plan.name, plan.partitions, replication, topic_configs=dict(plan.config)) for plan in plans
    ]
    try:
        answer = await admin.create_topics(new)
    except TopicAlreadyExistsError:
        return  # another worker was faster
    except KafkaError as error:
        raise TopicError(
            f"topics could not be created: {error}: create them by hand, see docs/limits.md"
        ) from error
    refused = [(name, message) for name, code, message in answer.topic_errors if code not in (0, 36)]
    if refused:
        lines = "\n".join(f"topic {name} could not be created: {message}" for name, message in refused)
        raise TopicError(lines)


async def _wait_until_visible(admin: AIOKafkaAdminClient, names: list[str]) -> None:
    """Metadata follows creation with a delay, and producing to a topic that is not visible yet spins."""
    try:
        async with asyncio.timeout(_VISIBLE_SECONDS):
            while names and len(await describe_topics(admin._client, names)) < len(names):  # noqa: SLF001 - as above
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise TopicError(
            f"the broker does not show the new topics {', '.join(names)} after {_VISIBLE_SECONDS:g} s"
        ) from error


async def _check(admin: AIOKafkaAdminClient, plans: tuple[TopicPlan, ...]) -> None:
    present = await describe_topics(admin._client, [plan.name for plan in plans])  # noqa: SLF001 - as above
    problems = [
        f"topic {plan.name} has {present[plan.name][1]} partitions and needs {plan.partitions}: "
        "delete it, so that Tocsin creates it, or name another one under `topics`"
        for plan in plans
        if plan.fixed and plan.name in present and present[plan.name][1] != plan.partitions
    ]
    calls = [plan.name for plan in plans if plan.purpose.startswith("calls")]
    for name, config in (await _configs(admin, calls)).items():
        policy = config.get("cleanup.policy", "")
        if config.get("message.timestamp.type") == "CreateTime":
            _log.warning(
                "topic %s takes the time of a record from its producer: one whose clock is ahead can make the calls "
                "of others late; set message.timestamp.type=LogAppendTime",
                name,
            )
        if "compact" in policy:
            problems.append(
                f"topic {name} is compacted (cleanup.policy={policy}), so calls with the same key would be lost: "
                "set cleanup.policy=delete"
            )
    if problems:
        raise TopicError("\n".join(problems))


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    """By topic what the broker says of its configuration."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    return {
        name: {entry[0]: entry[1] or "" for entry in entries}
        for answer in await admin.describe_configs(resources)
        for _, _, _, name, entries in answer.resources
    }
