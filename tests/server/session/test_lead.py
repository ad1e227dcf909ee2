"""The audio before a break, heard once more."""

from __future__ import annotations

from stream_protocol.messages import ResumeChannel
from stream_server.segmenter.segmenter import FRAME
from stream_server.session.lead import Lead


def test_a_new_stream_has_none() -> None:
    lead = Lead(777, None)
    assert (lead.end, lead.is_over, lead.is_speaking) == (777, True, False)
    assert lead.pass_over([1.0, 1.0]) == 0
    assert lead.heard == ()


def test_it_ends_where_the_finals_did_and_keeps_what_was_heard_last() -> None:
    lead = Lead(640, ResumeChannel(640 + 300 * FRAME, speaking=True))
    assert (lead.end, lead.is_over, lead.is_speaking) == (640 + 300 * FRAME, False, True)
    assert lead.pass_over([0.25] * 290) == 290
    assert not lead.is_over
    assert lead.pass_over([0.5] * 20) == 10
    assert lead.is_over
    assert lead.heard == (*[0.25] * 246, *[0.5] * 10)
    assert lead.pass_over([1.0]) == 0


def test_a_frame_that_was_partly_padding_is_not_heard_again() -> None:
    lead = Lead(0, ResumeChannel(FRAME + 1))
    assert lead.end == 2 * FRAME
    assert lead.pass_over([1.0] * 3) == 2
