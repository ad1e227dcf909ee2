"""A session's client over WebRTC: one Opus track in, and a data channel if the client opens one.

aiortc brings decoded frames; here they get their place on the media clock and wait, bounded, for
the session. What the session says goes to its log (``hub``), and the data channel is a viewer of
that, so a slow one holds nothing up. Once the connection is lost the session is told to stop, as if
the client had said so: its finals are still there for whoever watches.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.sdp import candidate_from_sdp
from av import AudioFrame

from stream_protocol import codec
from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import ClientMessage, Done, Error, Flush, ServerMessage, Start, Stop
from stream_server.config import LimitsConfig
from stream_server.errors import (
    DiffscribeError,
    InvalidField,
    LimitReached,
    error_message,
    wire_error,
)
from stream_server.transports.hub import SessionLog
from stream_server.transports.ice import IceServer
from stream_server.transports.rtp_clock import RTP_RATE, RtpClock
from stream_server.transports.sdp import TrickledCandidate, read_offer

_log = structlog.stdlib.get_logger(__name__)

FRAME_BYTES = 4
"""Of one moment of aiortc's Opus: two channels of 16 bits."""
_PAUSE_SECONDS = 1.0
"""Without a frame for so long, what was said is finalised: no silence comes that would do it."""
_MAX_CONTROLS = 64
"""Messages of the client that may wait."""
_MAX_BUFFERED = 1 << 20
"""Bytes in a data channel from which on it gets no more until it has sent some."""
_LAST_SECONDS = 2.0
"""What the data channel gets to deliver the last messages."""


@dataclass(slots=True)
class _Silence:
    """A gap in the audio."""

    samples: int


class WebRtcPeer:
    """One client.

    Args:
        start: what its session begins with.
        log: of its session.
        limits: how much may wait, and for how long.
        ice_servers: that the server uses itself.
    """

    def __init__(
        self, start: Start, log: SessionLog, limits: LimitsConfig, ice_servers: Sequence[IceServer]
    ) -> None:
        self._log = log
        self._limits = limits
        self._connection = RTCPeerConnection(_configuration(ice_servers))
        self._connection.on("connectionstatechange", self._note_state)
        self._connection.on("track", self._take_track)
        self._connection.on("datachannel", self._take_channel)
        self._clock = RtpClock()
        self._items: deque[ClientMessage | Exception | bytes | _Silence] = deque()
        self._waiting = 0
        """Bytes of audio."""
        self._controls = 0
        """Messages."""
        self._arrived = asyncio.Event()
        self._is_stopped = False
        self._is_closed = False
        self._channel: RTCDataChannel | None = None
        self._listening: asyncio.Task[None] | None = None
        self._showing: asyncio.Task[None] | None = None
        self._put(start)

    # --- setting up -----------------------------------------------------------------------------

    async def answer(self, offer: str) -> str:
        """Return the answer to an offer, with every candidate of this side in it.

        Raises:
            InvalidField: the offer cannot be answered.
        """
        read_offer(offer)
        audio = self._connection.addTransceiver("audio", direction="recvonly")
        known = RTCRtpReceiver.getCapabilities("audio")
        assert known is not None
        audio.setCodecPreferences([each for each in known.codecs if each.mimeType == "audio/opus"])
        try:
            await self._negotiate(offer)
        # A stranger's text in a library that says what is wrong in many ways, and at each step.
        except Exception as error:
            raise InvalidField(
                f"the offer cannot be answered ({type(error).__name__}: {str(error)[:200]}); "
                "offer one audio track with Opus, bundled, with ICE and DTLS",
                field="sdp",
            ) from error
        return str(self._connection.localDescription.sdp)

    async def _negotiate(self, offer: str) -> None:
        await self._connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        for transceiver in self._connection.getTransceivers():
            if transceiver.kind == "video":  # OBS offers it: accepted, and never decoded
                transceiver.direction = "inactive"
            _prefer_passive(transceiver.receiver.transport)
        if self._connection.sctp is not None:
            _prefer_passive(self._connection.sctp.transport)
        await self._connection.setLocalDescription(await self._connection.createAnswer())

    async def add_candidate(self, trickled: TrickledCandidate) -> None:
        """Take a candidate that came after the offer; one that cannot be used changes nothing."""
        # RFC 9725, 4.3.1: what is not understood is passed over. aiortc asserts and raises.
        with contextlib.suppress(Exception):
            candidate = candidate_from_sdp(trickled.line)
            candidate.sdpMid = trickled.mid
            if trickled.mid is None:
                candidate.sdpMLineIndex = 0
            await self._connection.addIceCandidate(candidate)

    async def end_candidates(self) -> None:
        """Take note that no more candidates will come."""
        with contextlib.suppress(Exception):  # it may be closed by now
            await self._connection.addIceCandidate(None)

    # --- the session's side ---------------------------------------------------------------------

    async def receive(self) -> ClientMessage | bytes | None:
        """Return the next message or audio; none once the connection was closed.

        Raises:
            RemoteProtocolError: the client sent what is no message.
            LimitReached: it sent more messages than may wait.
        """
        while not self._is_closed:
            if self._items:
                return self._take()
            self._arrived.clear()
            await self._arrived.wait()
        return None

    async def send(self, message: ServerMessage) -> None:
        """Do nothing: the session's log has the message, and the client watches that."""

    async def close(self, code: int, reason: str) -> None:
        """Let the data channel say the last words, then close."""
        if self._is_closed:
            return
        self._is_closed = True
        self._arrived.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await self._deliver()
        tasks = [task for task in (self._listening, self._showing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._connection.close()
        except Exception:  # of an offer that broke off half-way, aiortc may not find its parts
            _log.debug("a connection did not close well", exc_info=True)

    async def dismiss(self, error: DiffscribeError) -> None:
        """Say ``error`` and close. Never raises."""
        wire = wire_error(error)
        self._log.publish(error_message(error))
        with contextlib.suppress(Exception):
            await self.close(wire.close_code, wire.code)

    def stop(self) -> None:
        """Take no more audio; what has come is still transcribed."""
        if not self._is_stopped:
            self._is_stopped = True
            self._put(Stop())

    # --- what comes in --------------------------------------------------------------------------

    def _note_state(self) -> None:
        if self._connection.connectionState in ("failed", "closed"):
            self.stop()

    def _take_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio" and self._listening is None:
            self._listening = asyncio.create_task(self._listen(track))

    async def _listen(self, track: MediaStreamTrack) -> None:
        """Take frames until the track ends, or until none came for too long."""
        is_heard = False
        quiet, longest = 0.0, self._limits.media_timeout_ms / 1000
        while not self._is_stopped and quiet < longest:
            step = min(_PAUSE_SECONDS, longest)
            try:
                async with asyncio.timeout(step):
                    frame = await track.recv()
            except TimeoutError:
                if is_heard:
                    self._put(Flush())
                is_heard = False
                quiet += step
                continue
            except MediaStreamError:
                break
            is_heard, quiet = True, 0.0
            if isinstance(frame, AudioFrame):
                self._take_frame(frame)
        self.stop()

    def _take_frame(self, frame: AudioFrame) -> None:
        longest = self._limits.max_unprocessed_ms * RTP_RATE // 1000 * FRAME_BYTES
        if self._is_stopped or self._waiting >= longest or frame.pts is None:
            return  # nothing follows the stop; else the clock makes silence of it
        gap = self._clock.place(frame.pts, frame.samples)
        if gap is None:
            return
        if gap:
            self._put(_Silence(gap))
        data = bytes(frame.planes[0])[: frame.samples * FRAME_BYTES]
        self._put(data)

    def _put(self, item: ClientMessage | Exception | bytes | _Silence) -> None:
        if isinstance(item, bytes):
            self._waiting += len(item)
        elif not isinstance(item, _Silence):
            self._controls += 1
        self._items.append(item)
        self._arrived.set()

    def _take(self) -> ClientMessage | bytes:
        item = self._items.popleft()
        match item:
            case bytes():
                self._waiting -= len(item)
                return item
            case _Silence(samples):
                if samples > RTP_RATE:
                    self._items.appendleft(_Silence(samples - RTP_RATE))
                return bytes(min(samples, RTP_RATE) * FRAME_BYTES)
            case Exception():
                raise item
            case _:
                self._controls -= 1
                return item

    # --- the data channel -----------------------------------------------------------------------

    def _take_channel(self, channel: RTCDataChannel) -> None:
        if self._channel is not None:
            channel.close()
            return
        self._channel = channel
        channel.on("message", self._take_message)
        channel.bufferedAmountLowThreshold = _MAX_BUFFERED // 2
        self._showing = asyncio.create_task(self._show(channel))

    def _take_message(self, data: str | bytes) -> None:
        if self._is_stopped:
            return
        if self._controls >= _MAX_CONTROLS:
            self._is_stopped = True
            self._put(LimitReached(f"more than {_MAX_CONTROLS} messages wait; send fewer"))
            return
        try:
            if isinstance(data, bytes):
                raise RemoteProtocolError(
                    "bad_message", "audio goes into the track; the data channel takes text",
                    close_code=1007,
                )  # fmt: skip
            message = codec.decode_client(data)
        except RemoteProtocolError as error:
            self._is_stopped = True
            self._put(error)
            return
        self._is_stopped = isinstance(message, Stop)
        self._put(message)

    async def _show(self, channel: RTCDataChannel) -> None:
        """Send the session's log as it grows, up to the message that ends it."""
        # The channel may close at any moment; a client that does not read on joins again.
        with contextlib.suppress(Exception):
            async for events in self._log.follow():
                for event in events:
                    while channel.bufferedAmount > _MAX_BUFFERED:
                        await _until_low(channel)
                    channel.send(event.text)
                    if _is_last(event.message):
                        return
            channel.close()

    async def _deliver(self) -> None:
        """Wait until the data channel has sent what there is."""
        if self._channel is None or self._showing is None:
            return
        await asyncio.wait([self._showing])
        self._channel.bufferedAmountLowThreshold = 0
        if self._channel.readyState == "open" and self._channel.bufferedAmount:
            await _until_low(self._channel)


def _is_last(message: ServerMessage) -> bool:
    return isinstance(message, Done) or (isinstance(message, Error) and message.fatal)


async def _until_low(channel: RTCDataChannel) -> None:
    low = asyncio.Event()
    channel.once("bufferedamountlow", low.set)
    channel.once("close", low.set)
    await low.wait()


def _configuration(servers: Sequence[IceServer]) -> RTCConfiguration:
    # An empty list, not none: none is a public STUN server of aiortc's choice.
    return RTCConfiguration(
        iceServers=[RTCIceServer(each.urls, each.username, each.credential) for each in servers]
    )


def _prefer_passive(transport: object) -> None:
    """Let the client begin the DTLS handshake where its offer leaves that open.

    aiortc would begin it itself and offers ciphers for ECDSA alone, so that a client with an RSA
    certificate, GStreamer's for one, could not answer (aiortc issue 1434). There is no public way.
    """
    if getattr(transport, "_role", None) == "auto":
        transport._set_role("server")  # type: ignore[attr-defined]


__all__ = ["FRAME_BYTES", "WebRtcPeer"]
