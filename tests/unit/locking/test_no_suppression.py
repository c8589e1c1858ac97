from __future__ import annotations

from imgpull.locking import NoSuppression


def test_one_thread_may_hold_a_key_many_times() -> None:
    lock = NoSuppression()
    with lock.hold("a") as first, lock.hold("a", timeout_seconds=0) as second:
        assert (first.waited, second.waited) == (False, False)
        assert (lock.waiters("a"), len(lock)) == (0, 0)


def test_says_that_it_is_not_exclusive() -> None:
    assert NoSuppression().exclusive is False
    assert repr(NoSuppression()) == "NoSuppression()"
