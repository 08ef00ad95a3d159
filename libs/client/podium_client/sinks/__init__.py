"""Where the vectors of one call go: memory, NumPy's .npy, Parquet, JSON lines."""

from podium_client.sinks.base import Outcome, Sink
from podium_client.sinks.files import open_sink
from podium_client.sinks.jsonl import JsonlSink
from podium_client.sinks.memory import MemorySink
from podium_client.sinks.npy import NpySink
from podium_client.sinks.parquet import ParquetSink

__all__ = ["JsonlSink", "MemorySink", "NpySink", "Outcome", "ParquetSink", "Sink", "open_sink"]
