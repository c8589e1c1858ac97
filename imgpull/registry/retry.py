"""Trying again: which failures, how often, how long to wait, and how all threads hold off from a host together.

One loop per host and nothing beneath it: urllib3's and requests' own retries are off, a token fetch that fails is a
failed attempt of the request that needed it. Stacked loops multiply (five times five times five requests, while the
registry asks for fewer).
"""

from __future__ import annotations

import logging
import random as _random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from imgpull.errors import RegistryError

if TYPE_CHECKING:
    import tenacity

    from imgpull.locking import Cancellation

__all__ = ["Retry", "sleep"]

_logger = logging.getLogger("imgpull.registry")

T = TypeVar("T")

_SPREAD_SECONDS = 1.0
"""After a ``Retry-After``, threads come back within this long of each other rather than at one instant."""


def sleep(seconds: float, cancel: Cancellation | None = None) -> None:
    """Sleep, unless ``cancel`` fires: then raise PullCancelledError at once."""
    if cancel is None:
        time.sleep(seconds)
    else:
        cancel.wait(seconds)
        cancel.raise_if_cancelled()


class Retry:
    """The policy, shared by every thread that talks to these hosts.

    ``attempts`` counts the first. Between them it waits a random time between 0 and ``base_seconds``, doubled with
    each attempt (full jitter: AWS, "Exponential Backoff And Jitter"), or what ``Retry-After`` says. A ``Retry-After``
    above ``cap_seconds`` is not waited for: coming back earlier would be refused, and with some registries counted.
    """

    def __init__(
        self,
        *,
        attempts: int = 5,
        base_seconds: float = 0.25,
        cap_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
        sleep: Callable[[float, Cancellation | None], None] = sleep,
    ) -> None:
        self.attempts = attempts
        self._base_seconds = base_seconds
        self._cap_seconds = cap_seconds
        self._clock = clock
        self._random = random
        self._sleep = sleep
        self._lock = threading.Lock()  # guards _closed_until
        self._closed_until: dict[str, float] = {}

    def call(
        self, work: Callable[[], T], address: str, cancel: Cancellation | None = None, attempts: int | None = None
    ) -> T:
        """The result of ``work``, tried up to ``attempts`` times on the host at ``address``.

        Raises what the last try raised, and PullCancelledError when ``cancel`` fired in a pause.
        """
        try:
            return self.once(work, address, cancel)
        except RegistryError as error:
            if not self.worth_retrying(error):
                raise
            return self._again(work, address, cancel, attempts or self.attempts, error)

    def _again(
        self, work: Callable[[], T], address: str, cancel: Cancellation | None, attempts: int, error: RegistryError
    ) -> T:
        """The tries after the first, which ended with ``error``: only they need tenacity, whose import costs 30 ms."""
        import tenacity

        failures = [error]

        def attempt() -> T:
            if failures:  # tenacity counts the first one, too
                raise failures.pop()
            return self.once(work, address, cancel)

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(attempts),
            retry=tenacity.retry_if_exception(self.worth_retrying),
            wait=self._wait_seconds,
            sleep=lambda seconds: self._sleep(float(seconds), cancel),
            reraise=True,
        )
        result: T = retrying(attempt)
        return result

    def once(self, work: Callable[[], T], address: str, cancel: Cancellation | None = None) -> T:
        """The result of one try, made when the host wants to be asked again; a ``Retry-After`` holds everybody off."""
        self._wait_turn(address, cancel)
        if cancel is not None:
            cancel.raise_if_cancelled()
        try:
            return work()
        except RegistryError as error:
            self._hold_off(address, error)
            raise

    def pause(self, attempt: int, error: Exception, cancel: Cancellation | None = None) -> None:
        """Wait after the ``attempt``-th try (from 1) failed with ``error``; for loops that are not ours."""
        self._sleep(self.delay_seconds(attempt, error), cancel)

    def worth_retrying(self, error: BaseException) -> bool:
        """Whether another try may help and is welcome."""
        if not isinstance(error, RegistryError) or not error.retryable:
            return False
        wait = error.retry_after_seconds
        return wait is None or wait <= self._cap_seconds

    def delay_seconds(self, attempt: int, error: BaseException | None) -> float:
        """How long to wait after the ``attempt``-th try (from 1)."""
        wait = error.retry_after_seconds if isinstance(error, RegistryError) else None
        if wait is not None:
            return min(wait, self._cap_seconds) + self._random() * _SPREAD_SECONDS
        longest: float = self._base_seconds * 2.0 ** min(attempt - 1, 32)
        return self._random() * min(self._cap_seconds, longest)

    def _wait_seconds(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        seconds = self.delay_seconds(state.attempt_number, error)
        _logger.debug("attempt %d failed, next in %.2f s: %s", state.attempt_number, seconds, error)
        return seconds

    def _wait_turn(self, address: str, cancel: Cancellation | None) -> None:
        with self._lock:
            remaining = self._closed_until.get(address, 0.0) - self._clock()
            if remaining <= 0:
                self._closed_until.pop(address, None)
                return
        self._sleep(remaining + self._random() * _SPREAD_SECONDS, cancel)

    def _hold_off(self, address: str, error: RegistryError) -> None:
        wait = error.retry_after_seconds
        if wait and self.worth_retrying(error):
            with self._lock:
                self._closed_until[address] = max(self._closed_until.get(address, 0.0), self._clock() + wait)
