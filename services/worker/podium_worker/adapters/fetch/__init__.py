"""Fetches what clients name by URL, from a network that they must not reach into."""

from podium_worker.adapters.fetch.fetcher import Fetcher
from podium_worker.adapters.fetch.limits import FetchLimits
from podium_worker.adapters.fetch.s3 import S3Access

__all__ = ["FetchLimits", "Fetcher", "S3Access"]
