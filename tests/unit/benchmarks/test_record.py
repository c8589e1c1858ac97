"""What events are counted as, and whose row they are drawn in."""

from __future__ import annotations

from benchmarks.record import Counters, Timeline
from imgpull.events import BlobAdvanced, BlobChanged, BlobRequested, LayerChanged, Woken


def test_work_is_counted_and_a_restart_does_not_take_back_what_was_transferred() -> None:
    counters = Counters()
    for event in (
        BlobRequested("sha256:aa", "host", 0),
        BlobAdvanced("sha256:aa", 70),
        BlobAdvanced("sha256:aa", -70),
        BlobAdvanced("sha256:aa", 100),
        LayerChanged("sha256:aa", "sha256:cc", "unpacking"),
        LayerChanged("sha256:aa", "sha256:cc", "applied"),
        LayerChanged("sha256:bb", "sha256:dd", "exists"),
    ):
        counters(event)
    assert counters.fields() == {
        "blob_gets": 1,
        "bytes_fetched": 170,
        "layers_applied": 1,
        "wakeups": 0,
        "wasted_wakeups": 0,
        "slept_seconds": 0.0,
    }


def test_a_wake_up_by_the_holder_is_not_a_refusal() -> None:
    counters = Counters()
    counters(Woken("blob://x", found_held=False, slept_seconds=0.0))
    counters(Woken("layer-x", found_held=True, slept_seconds=0.25))
    assert (counters.wakeups, counters.wasted_wakeups, counters.slept_seconds, counters.refused) == (2, 1, 0.25, 1)


def test_an_event_told_to_two_pulls_is_counted_once_and_drawn_for_the_first() -> None:
    ticks = iter(range(100))
    counters = Counters()
    timeline = Timeline(counters, clock=lambda: float(next(ticks)))
    leader, joiner = timeline.trace(), timeline.trace()
    begun = LayerChanged("sha256:aabb", "sha256:cc", "unpacking")
    done = LayerChanged("sha256:aabb", "sha256:cc", "applied")
    for event in (begun, done):
        leader(event)
        joiner(event)
    leader.close()
    joiner.close()
    assert counters.layers_applied == 1
    assert [(span.kind, span.what) for span in leader.spans] == [("unpacking", "aabb")]
    assert joiner.spans == []


def test_equal_events_of_two_pulls_are_two_facts() -> None:
    counters = Counters()
    timeline = Timeline(counters)
    for trace in (timeline.trace(), timeline.trace()):
        trace(BlobChanged("sha256:aa", 1, "fetching"))
        trace(LayerChanged("sha256:aa", "sha256:cc", "applied"))
        trace.close()
        assert [span.kind for span in trace.spans] == ["fetching"]
    assert counters.layers_applied == 2
