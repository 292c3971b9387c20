import threading
import time

import pytest

from flashvsr.upscale.pipeline import Cancelled, Channel, read_ahead, write_behind


def test_items_arrive_in_order_through_both_threads():
    written = []
    with (
        write_behind(written.extend, size=1) as put,
        read_ahead(lambda give: [give(n) for n in range(50)], size=2) as items,
    ):
        for item in items:
            put(item * 2)
    assert written == [n * 2 for n in range(50)]


def test_a_reader_never_runs_further_ahead_than_the_queue_allows():
    given = []

    def produce(put):
        for number in range(100):
            put(number)
            given.append(number)

    with read_ahead(produce, size=3) as items:
        next(items)
        time.sleep(0.1)
        assert len(given) <= 4


def test_a_failing_reader_raises_in_the_body():
    def produce(put):
        put(1)
        raise OSError("bad sector")

    with pytest.raises(OSError, match="bad sector"), read_ahead(produce, size=1) as items:
        list(items)


def test_a_failing_writer_raises_at_the_next_put():
    def consume(items):
        next(items)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), write_behind(consume, size=1) as put:
        for number in range(1000):
            put(number)
            time.sleep(0.001)
        pytest.fail("nobody noticed")


def test_a_writer_that_fails_at_its_very_end_is_not_overlooked():
    def consume(items):
        list(items)
        raise OSError("cannot close")

    with pytest.raises(OSError, match="cannot close"), write_behind(consume, size=4) as put:
        put(1)


def test_an_error_in_the_body_cancels_both_threads_and_leaves_none_behind():
    ended = []

    def produce(put):
        try:
            while True:
                put(0)
        except Cancelled:
            ended.append("reader")
            raise

    def consume(items):
        try:
            list(items)
        except Cancelled:
            ended.append("writer")
            raise

    with (
        pytest.raises(KeyboardInterrupt),
        write_behind(consume, size=1) as put,
        read_ahead(produce, size=1) as items,
    ):
        put(next(items))
        raise KeyboardInterrupt
    assert sorted(ended) == ["reader", "writer"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flashvsr")]


def test_a_channel_without_room_is_refused():
    with pytest.raises(ValueError, match="at least one item, not 0"):
        Channel(0)
