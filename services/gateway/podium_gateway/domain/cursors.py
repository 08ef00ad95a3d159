"""A client's place in a job's result stream, as an opaque string.

The place is an item index, with the first item of the batch it lies in: results are stored by batch, and
whatever is acknowledged is acknowledged by batch. Chunk numbers would not do: a batch whose results were lost
is computed again, perhaps cut otherwise, and the client must still go on at the very item at which it
stopped.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
import zlib
from dataclasses import dataclass

_VERSION = 1
# Version, half-digest of the job id, batch's first item, next item; then CRC-32 of all that.
_BODY = struct.Struct(">B8sII")
_CHECK = struct.Struct(">I")
_ENCODED_LENGTH = 28


class BadCursor(ValueError):
    """The text is not a cursor of this job; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class Place:
    """Just before item `item`, which is in the batch that begins at `batch`. Equal when a batch begins."""

    batch: int
    item: int


class CursorCodec:
    """Writes and reads the cursors of one job."""

    def __init__(self, job_id: str) -> None:
        self._job = hashlib.sha256(job_id.encode()).digest()[:8]

    def encode(self, place: Place) -> bytes:
        """The cursor as ASCII bytes, safe in URLs."""
        body = _BODY.pack(_VERSION, self._job, place.batch, place.item)
        return base64.urlsafe_b64encode(body + _CHECK.pack(zlib.crc32(body)))

    def decode(self, text: str, items_total: int) -> Place:
        """Raises BadCursor for anything that `encode` did not give for this job."""
        if len(text) != _ENCODED_LENGTH:
            raise BadCursor("is not a cursor")
        try:
            raw = base64.b64decode(text, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadCursor("is not a cursor") from error
        body, check = raw[: _BODY.size], raw[_BODY.size :]
        if len(check) != _CHECK.size or _CHECK.unpack(check)[0] != zlib.crc32(body):
            raise BadCursor("is damaged: its checksum does not match")
        version, job, batch, item = _BODY.unpack(body)
        if version != _VERSION:
            raise BadCursor(f"is of version {version}, which this server does not know")
        if job != self._job:
            raise BadCursor("belongs to another job")
        if not batch <= item <= items_total:
            raise BadCursor("lies outside of the job")
        return Place(batch, item)
