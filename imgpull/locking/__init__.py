"""Duplicate suppression: who may do a piece of work, and who waits for it.

===================  ==================================================================================
:class:`KeyedLock`   the protocol: one holder per key at a time, or (``exclusive = False``) no suppression
:class:`KeyedMutex`  first come first served among threads, one wake-up per release
:class:`ProcessKeys` the same, and one holder among all processes that share a file
:class:`NoSuppression`  never blocks: the arm of the benchmark that shows what suppression saves
:class:`Cancellation`   how a caller takes back what it asked for
:class:`Flights`     work that belongs to no caller: many board it, one flies it, the last to leave stops it
:class:`Threads`     the threads that fly, counted, so that a store can end with none of them left
:class:`Deadlines`   many timeouts, one thread
:class:`Slots`       at most so many at once; always the last thing taken, and lent to others while its holder waits
===================  ==================================================================================

Keys are plain text, by containerd's convention ``blob://<digest>`` and ``sn://<snapshotter>/<chain ID>``.
"""

from __future__ import annotations

from imgpull.locking.cancellation import Cancellation
from imgpull.locking.deadlines import Deadlines
from imgpull.locking.flight import Audience, Flight, Flights, Landed, Launch, Seat, tell
from imgpull.locking.keyed_mutex import KeyedMutex
from imgpull.locking.moments import clock_name, now_ns
from imgpull.locking.no_suppression import NoSuppression
from imgpull.locking.process_keys import ProcessKeys
from imgpull.locking.protocol import Held, KeyedLock
from imgpull.locking.slots import Slot, Slots
from imgpull.locking.threads import Threads

__all__ = [
    "Audience",
    "Cancellation",
    "Deadlines",
    "Flight",
    "Flights",
    "Held",
    "KeyedLock",
    "KeyedMutex",
    "Landed",
    "Launch",
    "NoSuppression",
    "ProcessKeys",
    "Seat",
    "Slot",
    "Slots",
    "Threads",
    "clock_name",
    "now_ns",
    "tell",
]
