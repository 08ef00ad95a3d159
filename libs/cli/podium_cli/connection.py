"""Which service the command talks to: --address and --token before the command's name, else the
environment, else what `podium up` wrote."""

from __future__ import annotations

from dataclasses import dataclass

import typer

import podium_client


@dataclass(frozen=True, slots=True)
class Connection:
    """The options before the command's name."""

    address: str | None = None
    token: str | None = None
    retry_for_s: float = 300.0

    def client(self) -> podium_client.Client:
        """A client of the gateway."""
        policy = podium_client.RetryPolicy(connect_for_s=min(5.0, self.retry_for_s), retry_for_s=self.retry_for_s)
        return podium_client.Client(self.address, self.token, retry=policy)


def connection_of(context: typer.Context) -> Connection:
    """The options that the application's callback has stored."""
    found = context.find_root().obj
    return found if isinstance(found, Connection) else Connection()
