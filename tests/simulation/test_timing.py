"""When workers end, against closed forms and against each other's engine."""

import math
import random

import numpy as np
import pytest

from surmin.pipeline.comparison import STATUS_BYTES
from surmin.simulation.operations import Flush, Hear, Overheads, Post, Program, Receive, Send, Tell, Total, Work, expand
from surmin.simulation.schedules import reorder
from surmin.simulation.seconds import Setting
from surmin.simulation.sharing import NO_CARRIER, Carrier, share_cores
from surmin.simulation.timing import replay, share_a_link_late
from surmin.simulation.wires import HEADER_BYTES, LinkKind
from tests.simulation.waves import gradient_step, reorder_all

SIZE = 10_000


def wave_seconds(work: list[float], microbatches: int, links: LinkKind) -> float:
    """A flow shop whose machines, the links among them, each take as long for every job."""
    sending = float(SIZE * 8 / links.rate * links.packet / (links.packet - HEADER_BYTES))
    machines = [*work, *[sending] * (len(work) - 1)]
    return sum(machines) + (len(work) - 1) * float(links.latency) + (microbatches - 1) * max(machines)


@pytest.mark.parametrize("seed", range(30))
def test_posted_waves_are_flow_shops(seed: int) -> None:
    draw = random.Random(seed)
    workers, microbatches = draw.randint(2, 7), draw.randint(1, 9)
    links = LinkKind(draw.uniform(0, 0.1), draw.uniform(1e6, 1e9))
    forward, backward = ([draw.uniform(0, 0.02) for _ in range(workers)] for _ in range(2))
    programs = gradient_step(forward, backward, microbatches, SIZE)
    expected = wave_seconds(forward, microbatches, links) + wave_seconds(backward, microbatches, links)
    assert max(replay(expand(programs, Overheads()), links)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("workers", "microbatches"), [(4, 1), (4, 8), (2, 3), (6, 5)])
def test_receives_posted_late_cost_round_trips(workers: int, microbatches: int) -> None:
    """Over links of a latency alone a step takes 2 (K - 1) L + 4 (M - 1) L; posted ahead it takes 2 (K - 1) L."""
    links = LinkKind(0.05, 1e15)
    programs = gradient_step([0.0] * workers, [0.0] * workers, microbatches, 8)
    late = [[*program, *program] for program in reorder_all(programs, "gpipe")]
    late_time = max(replay(late, links)) - max(replay(reorder_all(programs, "gpipe"), links))
    assert late_time == pytest.approx((2 * (workers - 1) + 4 * (microbatches - 1)) * 0.05, rel=1e-6)
    assert max(replay(programs, links)) == pytest.approx(2 * (workers - 1) * 0.05, rel=1e-6)


@pytest.mark.parametrize("schedule", ["posted", "gpipe", "zero-bubble"])
@pytest.mark.parametrize("seed", range(8))
def test_with_a_core_each_both_engines_agree(schedule: str, seed: int) -> None:
    draw = random.Random(seed)
    workers = draw.randint(2, 5)
    microbatches = draw.randint(workers, 8)
    forward, backward = ([draw.uniform(0, 0.02) for _ in range(workers)] for _ in range(2))
    programs = reorder(gradient_step(forward, backward, microbatches, SIZE, draw.uniform(0, 0.1)), schedule)
    round_ = [[Tell(), *program] for program in programs]
    round_ = round_ if schedule != "posted" else [[*program, Hear()] for program in round_]
    both = expand([[*own, Total(16)] for own in round_], Overheads(1e-4, 1e-9))
    links = LinkKind(draw.uniform(0, 0.05), draw.uniform(1e6, 1e9))
    apart = replay(both, links)
    assert share_cores(both, links, workers) == pytest.approx([float(end) for end in apart], rel=1e-9)
    assert max(share_cores(both, links, 1)) >= max(apart) - 1e-9


def test_several_kinds_of_links_at_once() -> None:
    programs = reorder_all(gradient_step([0.01, 0.02, 0.03], [0.02, 0.02, 0.01], 4, SIZE), "1f1b")
    kinds = [LinkKind(latency, rate) for latency in (0.0, 0.03) for rate in (1e6, 1e8)]
    together = np.max(np.stack(replay(programs, LinkKind.all_of(kinds))), axis=0)
    assert together == pytest.approx([float(max(replay(programs, kind))) for kind in kinds], rel=1e-12)


def test_work_that_shares_a_core_takes_as_long_as_its_sum() -> None:
    programs: list[Program] = [[Work(1.0)], [Work(2.0)], [Work(3.0)]]
    links = LinkKind(0.0, 1e9)
    assert share_cores(programs, links, 1) == pytest.approx([3.0, 5.0, 6.0])
    assert share_cores(programs, links, 2) == pytest.approx([1.5, 2.5, 3.5])
    assert share_cores(programs, links, 3) == pytest.approx([1.0, 2.0, 3.0])


def test_word_goes_behind_the_messages_on_its_link_and_before_those_that_leave_later() -> None:
    """A second for a message of 8 bytes; the word of a receive takes 8 seconds, a latency is 100."""
    links = LinkKind(100.0, 64.0, 1e12)
    programs: list[Program] = [
        [Send(1, "forward", 8), Post(1, "gradient"), Receive(1, "gradient", 8)],
        [Send(-1, "gradient", 8, late=True)],
    ]
    # word leaves behind the message at 1, is out at 9 and there at 109; the gradient takes 1 + 100 more
    assert share_cores(programs, links, 2)[0] == pytest.approx(210.0)
    assert float(replay(programs, links)[0]) == pytest.approx(210.0)
    programs[0][0] = Send(1, "forward", 8, late=True)
    programs[1] = [Work(50.0), Post(-1, "forward"), Send(-1, "gradient", 8, late=True), Receive(-1, "forward", 8)]
    # the message waits for word until 158, so the other word, said at 0, is there at 108 and the gradient goes then
    assert share_cores(programs, links, 2) == pytest.approx([209.0, 259.0])


LATE = Send(1, "forward", 8, late=True)


@pytest.mark.parametrize(
    ("program", "shares"),
    [
        ([LATE, Post(1, "gradient")], True),
        ([LATE, Flush(1, "forward"), Post(1, "gradient")], False),
        ([LATE, LATE, Flush(1, "forward"), Post(1, "gradient")], True),
        ([LATE, Post(-1, "forward")], False),
        ([Send(1, "forward", 8), Post(1, "gradient")], False),
        ([Post(1, "gradient"), LATE], False),
    ],
)
def test_word_shares_a_link_with_what_may_not_have_gone_to_the_same_worker(program: Program, shares: bool) -> None:
    assert share_a_link_late([[], program, []]) is shares


@pytest.mark.parametrize("carrier", [Carrier(packet=0.125), Carrier(packet=0.0625, byte=0.0025), Carrier(byte=0.005)])
def test_what_carries_messages_goes_before_the_workers(carrier: Carrier) -> None:
    programs: list[Program] = [[Send(1, "forward", 100), Work(1.0)], [Receive(-1, "forward", 100), Work(1.0)]]
    ends = share_cores(programs, LinkKind(0.0, 1e12), 2, carrier)
    assert ends == pytest.approx([1.25, 1.25])  # half of each second core is gone for half a second


@pytest.mark.timeout(20)
@pytest.mark.parametrize("carrier", [NO_CARRIER, Carrier(packet=1e-4, byte=1e-9)])
@pytest.mark.parametrize("cores", [1, 4])
def test_an_end_is_found_however_late_it_is(cores: int, carrier: Carrier) -> None:
    """Over links so slow, the clock shows no less than what rounding leaves of a work."""
    work = [0.013, 0.007, 0.011, 0.017]
    programs = gradient_step(work, work, 4, SIZE, after=0.01)
    links = LinkKind(0.01, 0.3)
    apart = max(replay(programs, links))
    assert apart > 1e5
    assert max(share_cores(programs, links, cores, carrier)) == pytest.approx(float(apart), rel=1e-3)


@pytest.mark.parametrize(("size", "packets"), [(8, 4), (1448, 4), (1449, 6), (14_480, 22)])
def test_a_message_is_packets_of_its_own_word_before_them_and_answers(size: int, packets: int) -> None:
    assert LinkKind(0.0, 1e9, 1500).packets(size) == packets


def test_a_sum_goes_up_the_pipe_and_straight_back() -> None:
    programs = expand([[Total(8)] for _ in range(5)], Overheads())
    ends = replay(programs, LinkKind(0.1, 1e15))
    assert [float(end) for end in ends] == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.4])


def test_a_comparison_waits_for_the_last_to_tell() -> None:
    told: list[Program] = [[Work(delay), Tell(), Hear()] for delay in (0.3, 0.1, 0.2)]
    ends = replay(told, LinkKind(1.0, 1e15))
    assert [float(end) for end in ends] == pytest.approx([1.2, 1.3, 1.3])


@pytest.mark.parametrize(("step", "expected"), [(1, [0.3, 1.3, 1.3]), (-1, [1.2, 1.2, 0.2])])
def test_before_its_first_wave_a_comparison_waits_for_those_it_comes_through(step: int, expected: list[float]) -> None:
    links, delays = LinkKind(1.0, 1e15), (0.3, 0.1, 0.2)
    told: list[Program] = [[Work(delay), Tell(), Hear(step)] for delay in delays]
    assert [float(end) for end in replay(told, links)] == pytest.approx(expected)
    assert share_cores(told, links, 3) == pytest.approx(expected)
    later: list[Program] = [[*own, Hear(), *own] for own in told]
    # all have heard all after 1.2, 1.3 and 1.3 s, and work, tell and hear once more
    again = [end + delay for end, delay in zip((1.2, 1.3, 1.3), delays, strict=True)]
    through = [again[:place] if step > 0 else again[place + 1 :] for place in range(3)]
    ends = [max([own, *(1 + other for other in others)]) for own, others in zip(again, through, strict=True)]
    assert [float(end) for end in replay(later, links)] == pytest.approx(ends)
    assert share_cores(later, links, 3) == pytest.approx(ends)


def test_what_is_told_takes_its_bytes_time_on_the_link() -> None:
    """At eight bits a second in packets that are nearly all content, a byte is a second."""
    links, told = LinkKind(100.0, 8.0, 1e12), [[Tell(), Hear()] for _ in range(3)]
    ends = pytest.approx([100.0 + STATUS_BYTES] * 3)
    assert [float(end) for end in replay(told, links)] == ends
    assert share_cores(told, links, 3) == ends
    on_the_way: list[Program] = [[Tell(), Hear(1)] for _ in range(3)]
    assert [float(end) for end in replay(on_the_way, links)] == pytest.approx([0.0, *[100.0 + STATUS_BYTES] * 2])


def test_bytes_are_read_beside_what_a_worker_does() -> None:
    programs: list[Program] = [[Send(1, "forward", 1000)], [Work(2.0), Receive(-1, "forward", 1000)]]
    links, overheads = LinkKind(0.0, 1e15), Overheads(message=0.25, byte=1e-3)
    assert Setting(links, overheads, cores=2).end(programs) == pytest.approx(2.25)
    assert Setting(links, overheads, cores=1).end(programs) == pytest.approx(0.25 + 1 + 1 + 2 + 0.25)


def test_waiting_for_ever_is_told() -> None:
    programs: list[Program] = [[Receive(1, "forward", 8)], [Work(1.0)]]
    for end in (lambda: replay(programs, LinkKind(0.0, 1e9)), lambda: share_cores(programs, LinkKind(0.0, 1e9), 2)):
        with pytest.raises(RuntimeError, match="for ever"):
            end()


def test_headers_take_their_share_of_a_link() -> None:
    programs: list[Program] = [[Send(1, "forward", 1448)], [Receive(-1, "forward", 1448)]]
    assert math.isclose(float(replay(programs, LinkKind(0.0, 8.0, 1500))[1]), 1500.0)
