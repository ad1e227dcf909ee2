"""One peer against aiortc in this process: real ICE, DTLS and RTP, no HTTP."""

from __future__ import annotations

import asyncio
import datetime
import fractions
from collections.abc import AsyncIterator

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCCertificate, RTCPeerConnection, RTCSessionDescription
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from stream_protocol.codec import decode_server, encode
from stream_protocol.errors import RemoteProtocolError
from stream_protocol.messages import Configure, Done, Error, Flush, Notice, Start, Stop
from stream_server.config import LimitsConfig
from stream_server.errors import InvalidField, LimitReached, Overloaded
from stream_server.transports.hub import SessionLog
from stream_server.transports.webrtc import FRAME_BYTES, WebRtcPeer

START = Start(sample_rate=48000, channels=2)


class Tone(MediaStreamTrack):
    """A tone in frames of 20 ms at the pace of time; some of them can be left out."""

    kind = "audio"

    def __init__(self, frames: int, gap: range = range(0)) -> None:
        super().__init__()
        self.left = iter([i for i in range(frames) if i not in gap])
        self.began = 0.0

    async def recv(self) -> av.AudioFrame:
        loop = asyncio.get_running_loop()
        self.began = self.began or loop.time()
        index = next(self.left, None)
        if index is None:
            await asyncio.sleep(3600)
            raise AssertionError
        await asyncio.sleep(max(0.0, self.began + index * 0.02 - loop.time()))
        wave = np.sin(np.arange(960) * 0.05) * 8000
        frame = av.AudioFrame.from_ndarray(wave.astype("<i2")[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48000, index * 960
        frame.time_base = fractions.Fraction(1, 48000)
        return frame


def rsa_certificate() -> RTCCertificate:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rsa")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return RTCCertificate(key, certificate)


@pytest.fixture
async def log() -> SessionLog:
    return SessionLog("s", 100)


@pytest.fixture
async def client() -> AsyncIterator[RTCPeerConnection]:
    connection = RTCPeerConnection()
    yield connection
    await connection.close()


@pytest.fixture
async def peer(log: SessionLog) -> AsyncIterator[WebRtcPeer]:
    each = WebRtcPeer(START, log, LimitsConfig(media_timeout_ms=1500), ())
    assert await each.receive() is START
    yield each
    await each.close(1000, "")


async def connect(client: RTCPeerConnection, peer: WebRtcPeer) -> str:
    await client.setLocalDescription(await client.createOffer())
    answer = await peer.answer(client.localDescription.sdp)
    await client.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    return answer


async def hear(peer: WebRtcPeer) -> tuple[list[object], bytes]:
    """Everything up to the stop: messages, and all audio in one piece."""
    messages: list[object] = []
    audio = bytearray()
    async with asyncio.timeout(20):
        while True:
            item = await peer.receive()
            if isinstance(item, bytes):
                audio += item
                continue
            messages.append(item)
            if isinstance(item, Stop):
                return messages, bytes(audio)


@pytest.mark.parametrize("is_rsa", [False, True])
async def test_audio_comes_whatever_the_certificate(client, peer, is_rsa: bool) -> None:
    if is_rsa:
        client._RTCPeerConnection__certificates = [rsa_certificate()]
    client.addTransceiver(Tone(40), direction="sendonly")
    answer = await connect(client, peer)
    assert "a=setup:passive" in answer
    assert "a=recvonly" in answer
    assert "a=candidate:" in answer
    messages, audio = await hear(peer)
    # The jitter buffer keeps the last few frames.
    assert 30 * 960 <= len(audio) / FRAME_BYTES <= 40 * 960
    assert np.abs(np.frombuffer(audio, "<i2")).max() > 4000
    # It fell silent without a word: what was said is made final, then it is over.
    assert [type(each) for each in messages] == [Flush, Stop]


async def test_what_is_lost_becomes_silence(client, peer) -> None:
    client.addTransceiver(Tone(90, gap=range(20, 70)), direction="sendonly")
    await connect(client, peer)
    _, audio = await hear(peer)
    samples = np.abs(np.frombuffer(audio, "<i2").reshape(-1, 2)[:, 0].astype(int))
    loud = np.flatnonzero(samples > 2000)
    gaps = np.diff(loud)
    assert abs(gaps.max() - 50 * 960) <= 960
    assert samples[loud[gaps.argmax()] + 960 : loud[gaps.argmax() + 1] - 960].max() == 0


async def test_audio_that_nobody_takes_is_bounded_and_keeps_the_clock(client, log) -> None:
    peer = WebRtcPeer(START, log, LimitsConfig(max_unprocessed_ms=200, media_timeout_ms=1000), ())
    await peer.receive()
    client.addTransceiver(Tone(60), direction="sendonly")
    await connect(client, peer)
    async with asyncio.timeout(10):
        while peer._waiting < 200 * 48 * FRAME_BYTES:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    assert peer._waiting <= 220 * 48 * FRAME_BYTES
    _, audio = await hear(peer)
    assert len(audio) / FRAME_BYTES >= 50 * 960, "what was thrown away counts as silence"
    await peer.close(1000, "")


async def test_the_data_channel_shows_the_log_and_takes_messages(client, peer, log) -> None:
    client.addTransceiver(Tone(500), direction="sendonly")
    channel = client.createDataChannel("transcripts")
    heard: list[object] = []
    ended = asyncio.Event()

    @channel.on("message")
    def take(text: str) -> None:
        heard.append(decode_server(text))
        if isinstance(heard[-1], Done):
            ended.set()

    @channel.on("open")
    def ask() -> None:
        for message in (Configure(language="en"), Stop()):
            channel.send(encode(message))

    log.publish(Notice("before", "it was open"))
    await connect(client, peer)
    messages, _ = await hear(peer)
    assert messages == [Configure(language="en"), Stop()]
    log.publish(Notice("after", "it was open"))
    log.publish(Done(1, 1))
    await peer.close(1000, "")  # returns when the last word is out
    async with asyncio.timeout(5):
        await ended.wait()
    assert [getattr(each, "code", None) for each in heard] == ["before", "after", None]
    assert await peer.receive() is None


@pytest.mark.parametrize("sent", ["{", b"audio", '{"type":"ready"}'])
async def test_nonsense_in_the_data_channel_is_raised(client, peer, sent) -> None:
    client.addTransceiver(Tone(500), direction="sendonly")
    channel = client.createDataChannel("transcripts")
    channel.on("open", lambda: channel.send(sent))
    await connect(client, peer)
    with pytest.raises(RemoteProtocolError) as caught:
        await hear(peer)
    assert caught.value.code == "bad_message"


async def test_a_flood_of_messages_is_refused(client, peer) -> None:
    client.addTransceiver(Tone(500), direction="sendonly")
    channel = client.createDataChannel("transcripts")
    flush = encode(Flush())
    channel.on("open", lambda: [channel.send(flush) for _ in range(200)])
    await connect(client, peer)
    await asyncio.sleep(1.5)
    with pytest.raises(LimitReached):
        await hear(peer)


async def test_being_sent_away_is_said(client, peer, log) -> None:
    client.addTransceiver(Tone(500), direction="sendonly")
    channel = client.createDataChannel("transcripts")
    said: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    channel.on("message", lambda text: said.done() or said.set_result(decode_server(text)))
    opened = asyncio.Event()
    channel.on("open", opened.set)
    await connect(client, peer)
    async with asyncio.timeout(10):
        await opened.wait()
        await peer.dismiss(Overloaded("go"))
        message = await said
    assert isinstance(message, Error)
    assert message.fatal
    await peer.dismiss(Overloaded("again"))


async def test_a_client_that_never_connects_is_given_up(client, peer) -> None:
    client.addTransceiver(Tone(500), direction="sendonly")
    await client.setLocalDescription(await client.createOffer())
    await peer.answer(client.localDescription.sdp)
    messages, audio = await hear(peer)
    assert (messages, audio) == ([Stop()], b"")


@pytest.mark.parametrize(
    "offer",
    [
        "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=sendonly\r\n",
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio x y z\r\na=sendonly\r\n",
    ],
)
async def test_an_offer_that_aiortc_cannot_take_is_refused(peer, offer: str) -> None:
    with pytest.raises(InvalidField, match="cannot be answered"):
        await peer.answer(offer)


async def test_an_offer_without_opus_is_refused(client, peer) -> None:
    client.addTransceiver(Tone(1), direction="sendonly")
    offer = (await client.createOffer()).sdp.replace("opus/48000/2", "speex/48000/2")
    with pytest.raises(InvalidField, match="Opus"):
        await peer.answer(offer)


async def test_video_first_is_accepted_and_not_decoded(client, peer) -> None:
    client.addTransceiver("video", direction="sendonly")
    client.addTransceiver(Tone(40), direction="sendonly")
    answer = await connect(client, peer)
    assert answer.index("m=video") < answer.index("m=audio")
    assert "a=inactive" in answer
    _, audio = await hear(peer)
    assert len(audio) / FRAME_BYTES >= 30 * 960
