import math

import pytest

from benchmarks.links.link import Link
from benchmarks.links.relay import LARGEST_MTU, SMALLEST_MTU, Log, packet_size


def test_an_empty_link_has_nothing_due():
    assert Link(latency=0.05, rate=1e6).due == math.inf


def test_a_packet_on_a_free_link_takes_its_bits_over_the_rate_and_the_latency():
    link = Link(latency=0.05, rate=1e6)
    link.enter(bytes(1250), now=100.0)
    assert link.due == pytest.approx(100 + 0.01 + 0.05)


def test_packets_wait_for_those_before_them_but_not_for_their_latency():
    link = Link(latency=0.05, rate=1e6)
    for size in (1250, 2500, 125):
        link.enter(bytes(size), now=10.0)
    assert departures(link) == pytest.approx({1250: 10.06, 2500: 10.08, 125: 10.081})


def test_a_link_that_was_idle_owes_nothing_for_the_time():
    link = Link(latency=0.0, rate=1e6)
    link.enter(bytes(1250), now=1.0)
    link.enter(bytes(2500), now=5.0)
    assert departures(link) == pytest.approx({1250: 1.01, 2500: 5.02})


def test_packets_leave_in_order_though_the_latency_falls():
    link = Link(latency=0.1, rate=1e6)
    link.enter(b"first", now=0.0)
    link.latency = 0.0
    link.enter(b"second", now=0.0)
    assert [link.leave(), link.leave()] == [b"first", b"second"]


def test_what_does_not_fit_is_dropped_and_counted_and_takes_no_time():
    link = Link(latency=0.0, rate=1e6, capacity=2000)
    for size in (1250, 1250, 750):
        link.enter(bytes(size), now=0.0)
    assert link.dropped == 1
    assert departures(link) == pytest.approx({1250: 0.01, 750: 0.016})
    link.enter(bytes(2000), now=1.0)
    assert link.dropped == 1


def test_packets_take_a_millisecond_within_the_usual_sizes():
    assert packet_size(1e8) == 12_500
    assert packet_size(1e6) == SMALLEST_MTU
    assert packet_size(1e10) == LARGEST_MTU


def test_the_log_knows_the_latest_and_the_mean():
    log = Log()
    assert log.mean_late == 0
    for size, late in ((100, 0.001), (50, 0.003)):
        log.add(size, late)
    assert (log.packets, log.bytes, log.most_late) == (2, 150, 0.003)
    assert log.mean_late == pytest.approx(0.002)


def departures(link: Link) -> dict[int, float]:
    """When packets are due, by their sizes."""
    found = {}
    while (due := link.due) < math.inf:
        found[len(link.leave())] = due
    return found
