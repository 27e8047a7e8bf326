"""What a failed save leaves behind is not told; what anything else reports is."""

import asyncio
import sys

import pytest
import tensorstore

from swm_jax.checkpoints.run.failed_saves import mute_late_writes


@pytest.fixture
def told(monkeypatch):
    """What is reported beside the raised errors, with the reports of writes muted."""
    reports = watch(monkeypatch)
    mute_late_writes()
    return reports


def watch(monkeypatch) -> list[str]:
    """Objects (None for compiled code) that report a closed event loop from now on.

    What other tests have left behind may report something else at any time.
    """
    reports = []

    def note(unraisable):
        if str(unraisable.exc_value) == "Event loop is closed":
            reports.append(unraisable.object)

    monkeypatch.setattr(sys, "unraisablehook", note)
    return reports


def abandon(error: Exception | None = None) -> None:
    """A write that ends after the event loop that waited for it was closed."""
    promise, future = tensorstore.Promise.new()
    loop = asyncio.new_event_loop()

    async def wait():
        await future

    waiting = loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    waiting._log_destroy_pending = False  # of asyncio's own logger
    if error is None:
        promise.set_result(None)
    else:
        promise.set_exception(error)


def test_a_write_that_ends_after_its_save_was_given_up_tells_nothing(told):
    abandon()
    abandon(ValueError("OUT_OF_RANGE"))
    assert told == []


def test_tensorstore_does_report_such_a_write_where_nothing_is_muted(monkeypatch):
    reports = watch(monkeypatch)
    abandon()
    assert reports and reports[0] is None


def test_other_objects_reports_come_through_even_in_the_same_words(told):
    class Finalized:
        def __del__(self):
            raise RuntimeError("Event loop is closed")

    Finalized()
    assert len(told) == 1 and told[0] is not None


def test_muting_twice_wraps_the_hook_once(told):
    hook = sys.unraisablehook
    mute_late_writes()
    assert sys.unraisablehook is hook
