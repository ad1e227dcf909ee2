"""aiortc publishes a clip to a real server: WHIP and the exchange of JSON, words and their end."""

from __future__ import annotations

import asyncio
import json

import pytest
from websockets.asyncio.client import connect

from stream_server.config import LimitsConfig
from tests.integration.webrtc import (
    LIMITS,
    cut,
    follow,
    inside,
    offer_with_channel,
    publishing,
    session_of,
)


async def test_whip_gives_words_to_every_kind_of_viewer(running) -> None:
    with running(LIMITS) as server:
        async with publishing(server, "/whip/stage?language=en") as (_, http, answer):
            session = session_of(answer)
            following = [asyncio.create_task(follow(http, each)) for each in (session, "stage")]
            url = server.url.replace("http", "ws", 1) + f"/v1/sessions/{session}/watch"
            async with connect(url, subprotocols=["diffscribe.v1"]) as socket:
                assert socket.subprotocol == "diffscribe.v1"
                async with asyncio.timeout(10):
                    while json.loads(await socket.recv())["type"] != "final":
                        pass
                path = f"/v1/sessions/{session}/captions.vtt"
                assert "-->" in (await http.get(path)).text, "while it runs"
                assert await inside(http) == 1
                await asyncio.sleep(6)
                assert (await http.delete(answer.headers["Location"])).status_code == 200
                async with asyncio.timeout(10):
                    watched = [json.loads(text) async for text in socket]
            events, named = await asyncio.gather(*following)
            messages = [message for _, message in events]
            assert messages == [message for _, message in named]
            finals = [message for message in messages if message["type"] == "final"]
            assert watched[-1]["type"] == "done"
            assert watched[-1] == messages[-1]
            assert messages[0]["type"] == "ready"
            assert messages[0]["resume_token"] == ""
            # The clip says three things, at these times.
            assert len(finals) == 3
            for final, second in zip(finals, (0.4, 3.5, 5.8), strict=True):
                assert final["words"]
                assert abs(final["words"][0]["start"] / 16000 - second) < 0.4
            await http.delete(answer.headers["Location"])
            again = await follow(http, session, events[-4][0])
            assert [number for number, _ in again] == [number for number, _ in events[-3:]]
            srt = (await http.get("/v1/sessions/stage/captions.srt")).text
            assert srt.count("-->") >= 3


async def test_many_viewers_and_one_that_reads_nothing(running) -> None:
    with running(LIMITS) as server:
        async with publishing(server) as (_, http, answer):
            url = f"{server.url.replace('http', 'ws', 1)}/v1/sessions/{session_of(answer)}/watch"

            async def view() -> list[str]:
                async with connect(url) as socket:
                    return [json.loads(text)["type"] async for text in socket]

            async with connect(url, max_queue=1):  # it never reads
                viewers = [asyncio.create_task(view()) for _ in range(100)]
                await asyncio.sleep(5)
                await http.delete(answer.headers["Location"])
                async with asyncio.timeout(20):
                    seen = await asyncio.gather(*viewers)
            assert all(kinds[-1] == "done" for kinds in seen)
            assert {kinds.count("final") for kinds in seen} == {seen[0].count("final")}
            assert seen[0].count("final") >= 2


async def test_a_native_session_can_be_watched_too(server, talk, voice) -> None:
    async with talk(server, {}) as conversation:
        session = conversation.heard[0]["session"]
        url = f"{server.url.replace('http', 'ws', 1)}/v1/sessions/{session}/watch"
        async with connect(url) as socket:
            await conversation.say(voice(), {"type": "stop"})
            heard, _ = await conversation.hear_all()
            watched = [json.loads(text) async for text in socket]
    finals = [message for message in heard if message["type"] == "final"]
    assert [message for message in watched if message["type"] == "final"] == finals
    assert watched[-1] == heard[-1]


async def test_watching_wants_a_key_and_a_session(running) -> None:
    with running(keys=("sesame",)) as server:
        url = f"{server.url.replace('http', 'ws', 1)}/v1/sessions/no/watch"
        for options, status in (({}, 401), ({"additional_headers": {"X-API-Key": "sesame"}}, 404)):
            with pytest.raises(Exception, match=str(status)):
                async with connect(url, **options):
                    pass
        key = "diffscribe.key.c2VzYW1l"
        stream = server.url.replace("http", "ws", 1) + "/v1/stream"
        async with connect(stream, subprotocols=["diffscribe.v1", key]) as socket:
            assert socket.subprotocol == "diffscribe.v1"


async def test_a_cut_connection_gives_its_finals_and_its_place_back(running) -> None:
    with running(LIMITS) as server:
        async with publishing(server) as (connection, http, answer):
            following = asyncio.create_task(follow(http, session_of(answer)))
            await asyncio.sleep(2.2)  # in the middle of the first words
            cut(connection)
            async with asyncio.timeout(10):
                messages = [message for _, message in await following]
                while await inside(http):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            finals = [message for message in messages if message["type"] == "final"]
            assert len(finals) == 1
            assert finals[0]["text"]
            assert messages[-1]["type"] == "done"
            assert (await http.delete(answer.headers["Location"])).status_code == 404
            metrics = (await http.get("/metrics")).text
            assert 'diffscribe_sessions_ended_total{outcome="completed"} 1.0' in metrics
            assert "diffscribe_sessions 0.0" in metrics


async def test_a_stopping_server_ends_calls_and_viewers(running) -> None:
    with running(LimitsConfig(drain_seconds=0.2, media_timeout_ms=3000)) as server:
        async with publishing(server) as (_, http, answer):
            following = asyncio.create_task(follow(http, session_of(answer)))
            await asyncio.sleep(1)
            server.stop()
            async with asyncio.timeout(10):
                messages = [message for _, message in await following]
            kinds = [(message["type"], message.get("code")) for message in messages]
            assert ("notice", "draining") in kinds
            assert kinds[-1] == ("error", "draining")


async def test_the_exchange_of_json_with_a_data_channel(running) -> None:
    with running(LIMITS) as server:
        heard = await offer_with_channel(server, words=True, partial_interval_ms=200)
        kinds = [message["type"] for message in heard]
        assert kinds.count("final") == 3
        assert kinds.count("partial") >= 3
