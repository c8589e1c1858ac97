"""What all Pullers on one store share within this process: the live flights, and the threads that fly them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgpull.locking import Deadlines, Flights, Threads

if TYPE_CHECKING:
    from imgpull.registry import Resolution
    from imgpull.store.images import Image

__all__ = ["Traffic"]


class Traffic:
    """Flights by kind. Closed with the store's last handle; a Puller that does not share closes its own."""

    def __init__(self, *, joining: bool = True) -> None:
        self.joining = joining
        self.resolutions: Flights[Resolution] = Flights(joining=joining)
        self.pulls: Flights[Image] = Flights(joining=joining)
        self.blobs: Flights[None] = Flights(joining=joining)
        self.threads = Threads()
        self.deadlines = Deadlines(self.threads)

    def close(self) -> None:
        """Stop what still flies and wait for its threads: the store's database is closed next. Again: no effect."""
        self.threads.dismiss()  # first, so that nothing takes off meanwhile
        for flights in (self.resolutions, self.pulls, self.blobs):
            flights.cancel()
        self.threads.join()
