"""A bot that joins a room over WebRTC and transcribes each remote track: ``RoomBot(meeting)``.

It comes in by WHEP, by an exchange in which it makes the offer, or by answering the offers of a
room; then each audio track is a participant of the meeting. Where a track's audio lies on the
meeting's clock is said by its RTP time stamps, so neither silence that is left out (DTX, mutes) nor
packets that are lost or late move what was said.

Needs ``pip install 'diffscribe[bot]'``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from urllib.parse import urljoin

import av
import httpx
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from aiortc.sdp import SessionDescription

from stream_client.errors import ClientError, ConnectionFailed
from stream_client.meeting import Meeting, Participant
from stream_client.sources import SAMPLE_RATE

RTP_RATE = 48_000
"""Hertz of Opus in RTP (RFC 7587, 4.1)."""

_LONGEST_GAP = 600 * RTP_RATE
"""Samples. A greater jump, and any long one back, is a new source and no silence."""
_MAX_WAITING = 1500
"""Frames of a track that may wait, 30 s; what comes on top of that becomes silence."""
_TIMEOUT_SECONDS = 20.0

NameOf = Callable[[str, str], str]
"""Gives a participant's name for what the room calls the stream, and the ``mid`` of its track."""


class TrackClock:
    """Where the frames of one track lie on the meeting's clock. Pure."""

    def __init__(self) -> None:
        self._origin: tuple[int, int] | None = None
        """A time stamp, and the samples of the meeting that belong to it."""
        self._last = 0

    def place(self, timestamp: int, samples: int, now: int) -> int:
        """Return samples of the meeting at which a frame begins.

        Args:
            timestamp: of its first sample at 48 kHz, without wrap-around.
            samples: that it has, at 48 kHz.
            now: samples of the meeting so far.
        """
        jump = timestamp - self._last
        if self._origin is None or not -RTP_RATE <= jump <= _LONGEST_GAP:
            self._origin = timestamp, now - samples * SAMPLE_RATE // RTP_RATE
        self._last = timestamp
        first, at = self._origin
        return at + (timestamp - first) * SAMPLE_RATE // RTP_RATE


class RoomBot:
    """Brings the tracks of a room into a meeting: ``async with RoomBot(meeting) as bot``.

    Args:
        meeting: That is open; it outlives the bot.
        name_of: Gives the names of the participants; else the room's own names for the streams
            are theirs.
        configuration: STUN and TURN servers; none takes none.
    """

    def __init__(
        self,
        meeting: Meeting,
        name_of: NameOf | None = None,
        configuration: RTCConfiguration | None = None,
    ) -> None:
        self._meeting = meeting
        self._name_of: NameOf = name_of or (lambda stream, mid: stream)
        # An empty list, not none: none is a public STUN server of aiortc's choice.
        self._configuration = configuration or RTCConfiguration(iceServers=[])
        self._connections: list[RTCPeerConnection] = []
        self._room: RTCPeerConnection | None = None
        self._resources: list[tuple[str, dict[str, str]]] = []
        """WHEP sessions to be deleted: address and headers."""
        self._tracks: list[MediaStreamTrack] = []
        self._listening: set[asyncio.Task[None]] = set()
        self._http = httpx.AsyncClient(timeout=_TIMEOUT_SECONDS)

    async def __aenter__(self) -> RoomBot:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.leave()

    async def join_whep(self, url: str, *, name: str | None = None, token: str = "") -> None:
        """Play what an address offers by WHEP; call it once for each participant or room.

        Args:
            url: Of the WHEP endpoint.
            name: Of who is heard there, where there is one track.
            token: Sent as ``Authorization: Bearer``.

        Raises:
            ConnectionFailed: There is no such endpoint, or it plays nothing.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}

        async def exchange(offer: str) -> str:
            try:
                answer = await self._http.post(
                    url, content=offer, headers={**headers, "Content-Type": "application/sdp"}
                )
            except httpx.HTTPError as error:
                raise ConnectionFailed(url, str(error) or type(error).__name__) from error
            if answer.status_code != 201:
                raise ConnectionFailed(url, f"HTTP status {answer.status_code} to a WHEP offer")
            if location := answer.headers.get("Location"):
                self._resources.append((urljoin(url, location), headers))
            return answer.text

        await self.join(exchange, name_of=(lambda stream, mid: name) if name else None)

    async def join(
        self,
        exchange: Callable[[str], Awaitable[str]],
        *,
        tracks: int = 1,
        name_of: NameOf | None = None,
    ) -> None:
        """Join where the bot makes the offer.

        Args:
            exchange: Brings the SDP of an offer to the room and returns that of its answer.
            tracks: Audio tracks that are asked for.
            name_of: As of the bot, for these.

        Raises:
            ConnectionFailed: The answer is none.
        """
        connection = self._connect()
        for _ in range(tracks):
            connection.addTransceiver("audio", direction="recvonly")
        await connection.setLocalDescription(await connection.createOffer())
        answer = await exchange(connection.localDescription.sdp)
        await self._describe(connection, answer, "answer", name_of or self._name_of)
        if not any(each.receiver.track for each in connection.getTransceivers()):
            raise ConnectionFailed("the room", "its answer has no audio")

    async def answer(self, offer: str) -> str:
        """Return the answer to an offer of the room; again for each that follows.

        Raises:
            ConnectionFailed: The offer is none.
        """
        if self._room is None:
            self._room = self._connect()
        await self._describe(self._room, offer, "offer", self._name_of)
        for transceiver in self._room.getTransceivers():
            _prefer_passive(transceiver.receiver.transport)
        await self._room.setLocalDescription(await self._room.createAnswer())
        return str(self._room.localDescription.sdp)

    async def wait(self) -> None:
        """Return when every track has ended."""
        while self._listening:
            await asyncio.wait(self._listening)

    async def leave(self) -> None:
        """Hang up. What has been heard is still transcribed."""
        for url, headers in self._resources:
            with contextlib.suppress(httpx.HTTPError):  # the room notices anyway
                await self._http.delete(url, headers=headers)
        self._resources.clear()
        for connection in self._connections:
            await connection.close()
        listening = [*self._listening]
        for task in listening:
            task.cancel()
        ended = await asyncio.gather(*listening, return_exceptions=True)
        await self._http.aclose()
        for each in ended:
            if isinstance(each, Exception):
                raise each

    def _connect(self) -> RTCPeerConnection:
        connection = RTCPeerConnection(self._configuration)
        self._connections.append(connection)
        return connection

    async def _describe(
        self, connection: RTCPeerConnection, sdp: str, kind: str, name_of: NameOf
    ) -> None:
        """Take the room's side of an exchange, and listen to the tracks that are new in it."""
        try:
            await connection.setRemoteDescription(RTCSessionDescription(sdp, kind))
            streams = _read_streams(sdp)
        # A stranger's text in a library that says what is wrong in many ways.
        except Exception as error:
            raise ConnectionFailed("the room", f"its {kind} cannot be used: {error}") from error
        for transceiver in connection.getTransceivers():
            track, mid = transceiver.receiver.track, str(transceiver.mid)
            if transceiver.kind != "audio" or track is None or track in self._tracks:
                continue
            self._tracks.append(track)
            name = name_of(streams.get(mid, mid), mid)
            task = asyncio.create_task(self._listen(track, name))
            self._listening.add(task)
            task.add_done_callback(self._listening.discard)

    async def _listen(self, track: MediaStreamTrack, name: str) -> None:
        frames: asyncio.Queue[av.AudioFrame | None] = asyncio.Queue(_MAX_WAITING)
        receiving = asyncio.create_task(_receive(track, frames))
        participant: Participant | None = None
        try:
            participant = await self._meeting.add(name)
            await self._forward(frames, participant)
        except ClientError as error:
            if participant is None:  # else its reader has reported it
                self._meeting.note_failure(name, error)
        finally:
            receiving.cancel()
            if participant is not None:
                await participant.leave()

    async def _forward(
        self, frames: asyncio.Queue[av.AudioFrame | None], participant: Participant
    ) -> None:
        clock = TrackClock()
        resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        while (frame := await frames.get()) is not None:
            at = clock.place(frame.pts, frame.samples, self._meeting.now)
            frame.pts = None  # a jump is no concern of the resampler's
            pcm = b"".join(piece.to_ndarray().tobytes() for piece in resampler.resample(frame))
            if pcm:
                await participant.send(pcm, at=max(0, at))


async def _receive(track: MediaStreamTrack, frames: asyncio.Queue[av.AudioFrame | None]) -> None:
    """Take frames as they come, whether or not the server keeps up; none ends the track."""
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            await frames.put(None)
            return
        with contextlib.suppress(asyncio.QueueFull):
            frames.put_nowait(frame)


def _prefer_passive(transport: object) -> None:
    """Let the room begin the DTLS handshake where its offer leaves that open.

    aiortc would begin it itself and offers ciphers for ECDSA alone, so that a room with an RSA
    certificate could not answer (aiortc issue 1434). There is no public way.
    """
    if getattr(transport, "_role", None) == "auto":
        transport._set_role("server")  # type: ignore[attr-defined]


def _read_streams(sdp: str) -> dict[str, str]:
    """Return what the room calls the streams, by the ``mid`` of their tracks (RFC 8830)."""
    named = {
        str(media.rtp.muxId): str(media.msid.split()[0])
        for media in SessionDescription.parse(sdp).media
        if media.msid
    }
    return {mid: stream for mid, stream in named.items() if stream != "-"}


__all__ = ["RTP_RATE", "NameOf", "RoomBot", "TrackClock"]
