"""From a registry into the content store: a pool of workers, one transfer per digest, joined by all who want it."""

from imgpull.fetch.backoff import open_writer
from imgpull.fetch.fetcher import Fetcher, is_here
from imgpull.fetch.fetches import Boarding, Fetches
from imgpull.fetch.workers import Crew, Workers

__all__ = ["Boarding", "Crew", "Fetcher", "Fetches", "Workers", "is_here", "open_writer"]
