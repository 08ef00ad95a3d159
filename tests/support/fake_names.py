"""A name server of a test's own."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Sequence


class FakeNames:
    """Answers look-ups from a table. A name can have several answers: one after the other, then always the last."""

    def __init__(self, **names: Sequence[str]) -> None:
        """`names` with `_` for `.`: `images_example=["10.0.0.1"]`."""
        self._answers = {name.replace("_", "."): [list(addresses)] for name, addresses in names.items()}
        self.lookups: Counter[str] = Counter()

    def set(self, name: str, *answers: Sequence[str]) -> None:
        """What `name` resolves to, look-up by look-up."""
        self._answers[name] = [list(addresses) for addresses in answers]

    async def __call__(self, host: str) -> Sequence[str]:
        self.lookups[host] += 1
        await asyncio.sleep(0)
        answers = self._answers.get(host)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]
