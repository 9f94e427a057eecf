"""Reading ahead and writing behind: order, bounds and errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pseudo_labeling.ahead import AheadReader, BehindWriter, made_ahead

SOON = 10.0  # seconds


def test_results_come_in_order() -> None:
    assert list(made_ahead(range(20), lambda n: n * n, depth=3)) == [n * n for n in range(20)]
    assert list(made_ahead([], str)) == []


def test_the_next_one_is_made_meanwhile_and_no_more() -> None:
    made: list[int] = []
    started = [threading.Event() for _ in range(6)]

    def make(n: int) -> int:
        started[n].set()
        made.append(n)
        return n

    results = made_ahead(range(6), make, depth=2)
    assert next(results) == 0
    assert started[2].wait(SOON)
    time.sleep(0.05)
    assert made == [0, 1, 2]  # 0 in use, two ahead
    assert list(results) == [1, 2, 3, 4, 5]


def test_items_are_taken_here_and_several_are_made_at_once() -> None:
    taken: list[int] = []
    three = threading.Barrier(3, timeout=SOON)

    def items() -> Iterator[int]:
        for n in range(6):
            taken.append(threading.get_ident())
            yield n

    def make(n: int) -> int:
        three.wait()  # raises unless two others come too
        return n

    assert list(made_ahead(items(), make, depth=4, threads=3)) == list(range(6))
    assert set(taken) == {threading.get_ident()}


def test_an_error_is_raised_in_its_items_turn() -> None:
    def make(n: int) -> int:
        if n == 2:
            raise ValueError("two")
        return n

    results = made_ahead(range(4), make, depth=3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


def test_a_caller_that_stops_stops_the_thread() -> None:
    before = threading.active_count()
    results = made_ahead(range(100), lambda n: n)
    next(results)
    results.close()
    assert threading.active_count() == before


def test_reader_makes_the_expected_item_in_another_thread() -> None:
    places: dict[str, int] = {}
    ready = threading.Event()

    def read(name: str) -> str:
        places[name] = threading.get_ident()
        if name == "b":
            ready.set()
        return name.upper()

    reader = AheadReader(read)
    reader.expect(["a", "b", "c"])
    assert reader("a") == "A"
    assert ready.wait(SOON)
    assert [reader("b"), reader("c")] == ["B", "C"]
    me = threading.get_ident()
    assert places["a"] == me
    assert places["b"] != me
    assert AheadReader(read)("z") == "Z"  # nothing expected


def test_reader_answers_out_of_order_and_reads_nothing_twice_in_order() -> None:
    seen: list[int] = []

    def read(n: int) -> int:
        seen.append(n)
        return n

    reader = AheadReader(read)
    reader.expect([1, 2, 3, 4])
    assert [reader(n) for n in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert seen == [1, 2, 3, 4]
    assert [reader(n) for n in (3, 1, 9)] == [3, 1, 9]


def test_reader_raises_the_items_error_and_goes_on() -> None:
    def read(n: int) -> int:
        if n == 2:
            raise OSError("broken")
        return n

    reader = AheadReader(read)
    reader.expect([1, 2, 3])
    assert reader(1) == 1
    with pytest.raises(OSError, match="broken"):
        reader(2)
    assert reader(3) == 3


def test_item_too_large_is_read_when_asked_for() -> None:
    places: dict[int, int] = {}

    def read(n: int) -> None:
        places[n] = threading.get_ident()

    reader = AheadReader(read, worth_it=lambda n: n < 2)
    reader.expect([1, 2])
    reader(1)
    reader(2)
    assert places[2] == threading.get_ident()


def test_jobs_are_done_in_order_and_before_the_end() -> None:
    done: list[int] = []

    def job(n: int) -> None:
        time.sleep(0.002)
        done.append(n)

    with BehindWriter(depth=2) as writer:
        for n in range(10):
            writer.submit(lambda n=n: job(n))
            assert n + 1 - len(done) <= 3  # two wait or run, and one has just ended
    assert done == list(range(10))


def test_a_jobs_error_reaches_the_caller() -> None:
    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), BehindWriter() as writer:
        writer.submit(fail)
    full = BehindWriter(depth=1)
    full.submit(fail)
    with pytest.raises(OSError, match="disk full"):
        full.submit(lambda: None)


def test_jobs_submitted_before_an_error_are_done() -> None:
    done: list[int] = []

    def interrupted() -> None:
        with BehindWriter() as writer:
            writer.submit(lambda: (time.sleep(0.05), done.append(1)))
            writer.submit(lambda: done.append(2))
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert done == [1, 2]
