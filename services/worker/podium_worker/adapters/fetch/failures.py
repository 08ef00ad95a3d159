"""What can go wrong with one attempt, told so that a sentence can begin with the URL that the client knows."""

from __future__ import annotations

from podium_worker.domain import problems


class Failed(Exception):
    """An attempt failed. `what` goes on after the URL: "answered 404 Not Found"; it holds nothing from elsewhere."""

    def __init__(
        self,
        what: str,
        *,
        reason: problems.Reason = problems.Reason.FETCH_FAILED,
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.reason = reason
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        """Seconds that the server wants to be left alone."""

    def behind_redirect(self) -> Failed:
        """The same, said of a URL that the client has not named and that is not named to it."""
        return Failed(
            f"redirects to a URL that {self.what}",
            reason=self.reason,
            retryable=self.retryable,
            retry_after_s=self.retry_after_s,
        )


def not_allowed(what: str) -> Failed:
    """It must not be fetched, now or later."""
    return Failed(what, reason=problems.Reason.URL_NOT_ALLOWED)


def too_large(max_bytes: int) -> Failed:
    """It has more bytes than it may."""
    return Failed(f"has more than {max_bytes:,} bytes", reason=problems.Reason.TOO_LARGE)
