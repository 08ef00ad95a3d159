"""The adapters to Postgres and Redis of one replica, made from its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from podium_scheduler.adapters.redis import buffer, wakeups
from podium_scheduler.adapters.sql import (
    archive_ledger,
    batch_ledger,
    cluster_ledger,
    consumer_ledger,
    cost_ledger,
    database,
    demand_ledger,
    feed_ledger,
    holdings_ledger,
    item_claims,
    job_ledger,
    known_items_ledger,
    leadership,
    load_ledger,
    pod_ledger,
    scaling_ledger,
    session_ledger,
)
from podium_scheduler.app import delivery_news
from podium_scheduler.settings import SchedulerSettings


@dataclass(frozen=True, slots=True)
class Stores:
    """What the loops and use cases are given."""

    settings: SchedulerSettings
    database: database.Database
    buffer: buffer.Buffer
    wakeups: wakeups.Wakeups
    leadership: leadership.Leadership
    jobs: job_ledger.JobLedger
    archive: archive_ledger.ArchiveLedger
    batches: batch_ledger.BatchLedger
    feeds: feed_ledger.FeedLedger
    holdings: holdings_ledger.HoldingsLedger
    items: known_items_ledger.KnownItemsLedger
    sessions: session_ledger.SessionLedger
    cluster: cluster_ledger.ClusterLedger
    consumers: consumer_ledger.ConsumerLedger
    loads: load_ledger.LoadLedger
    costs: cost_ledger.CostLedger
    pods: pod_ledger.PodLedger
    scaling: scaling_ledger.ScalingLedger
    asked: demand_ledger.DemandLedger
    news: delivery_news.DeliveryNews

    def under(self, term: int, refused: Callable[[], None]) -> Stores:
        """The same, with ledgers that write under this term only; `refused` is called when it is over."""
        pool = self.database.under(leadership.fence(term, refused))
        return dataclasses.replace(self, database=pool, **_ledgers(pool, self.settings, self.news))


def open_stores(settings: SchedulerSettings) -> Stores:
    """Of this replica; nothing is connected yet."""
    pool = database.Database(settings.postgres_url, pool_size=settings.postgres_pool_size)
    away_after = session_ledger.away_after(timedelta(seconds=settings.lease_ttl_s))
    redis = buffer.Buffer(
        settings.redis_url,
        prefix=settings.redis_prefix,
        consumer=settings.replica_id,
        # Keys outlive every retention, so that only those that were forgotten go by themselves.
        result_ttl_s=round(settings.result_retention_s * 2) + 86_400,
    )
    waker = wakeups.Wakeups(redis, settings.redis_prefix, settings.replica_id)
    news = delivery_news.DeliveryNews(redis, waker)
    return Stores(
        settings=settings,
        database=pool,
        buffer=redis,
        wakeups=waker,
        leadership=leadership.Leadership(settings.postgres_url, settings.replica_id, away_after=away_after),
        news=news,
        **_ledgers(pool, settings, news),
    )


def _ledgers(pool: database.Database, settings: SchedulerSettings, news: delivery_news.DeliveryNews) -> dict[str, Any]:
    terms = item_claims.Terms(
        timedelta(seconds=settings.known_item_retention_s), timedelta(seconds=settings.deduplication_patience_s)
    )
    return {
        "jobs": job_ledger.JobLedger(pool, news.note, terms),
        "archive": archive_ledger.ArchiveLedger(pool),
        "batches": batch_ledger.BatchLedger(pool, settings.retention, news.note),
        "feeds": feed_ledger.FeedLedger(pool),
        "holdings": holdings_ledger.HoldingsLedger(pool),
        "items": known_items_ledger.KnownItemsLedger(pool, terms, settings.retention, news.note),
        "sessions": session_ledger.SessionLedger(pool, timedelta(seconds=settings.lease_ttl_s)),
        "cluster": cluster_ledger.ClusterLedger(pool),
        "consumers": consumer_ledger.ConsumerLedger(pool, timedelta(seconds=settings.consumer_lease_s)),
        "loads": load_ledger.LoadLedger(pool),
        "costs": cost_ledger.CostLedger(pool),
        "pods": pod_ledger.PodLedger(pool, timedelta(seconds=settings.pod_token_ttl_s)),
        "scaling": scaling_ledger.ScalingLedger(pool),
        "asked": demand_ledger.DemandLedger(pool),
    }
