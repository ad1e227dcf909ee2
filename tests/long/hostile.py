"""A million hostile frames and requests: ``python -m tests.long.hostile --count 1000000``.

Hypothesis' state machine opens conversations of every API, says what ``frames`` makes, leaves
rudely or waits for the end, and sends HTTP requests meanwhile. Everything is the real server but
for the sockets: the application is called as the web server would call it, with the real sessions
and the real engine behind it (the model is the fake). What must hold:

* no exception leaves the application, and nothing is answered as ``internal`` (500, 1011);
* everything ends: within ten seconds of its last frame, of the client's leaving, or of its request;
* a bystander's session, open throughout, gets its whole transcript, the same each time.

It prints how often each API gave which answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

import stream_server.server as server_module
from stream_server.config import (
    Config,
    LimitsConfig,
    ListenConfig,
    RecogniserConfig,
    SchedulerConfig,
)
from stream_server.logs import configure_logging
from stream_server.recogniser.fake import FakeRecogniser
from tests.long.frames import APIS, Api, Frame, Request, frame, query, request

SECONDS = 10.0
"""After which something that has not ended hangs."""
_EXAMPLE_STEPS = 25
_BULK = 300
"""Most frames of one rule."""

_Scope = MutableMapping[str, Any]


def _scope(kind: str, path: str, query: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> _Scope:
    return {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "ws" if kind == "websocket" else "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query,
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "state": {},
        "extensions": {"websocket.http.response": {}} if kind == "websocket" else {},
    }


@dataclass(slots=True)
class Conversation:
    """One WebSocket, as the web server would hand it to the application."""

    api: Api
    rig: Rig
    inbox: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    heard: list[dict[str, Any]] = field(default_factory=list)
    answer: str = "left"
    """Close code or HTTP status; or that the client left."""
    has_left: bool = False
    task: asyncio.Task[None] | None = None

    def begin(self, app: Any, scope: _Scope) -> None:
        """Hand the connection to the application."""
        self.inbox.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.get_running_loop().create_task(app(scope, self._receive, self._send))

    def say(self, data: Frame) -> None:
        """Send a frame."""
        key = "text" if isinstance(data, str) else "bytes"
        self.inbox.put_nowait({"type": "websocket.receive", key: data})

    def leave(self) -> None:
        """Be gone."""
        self.has_left = True
        self.inbox.put_nowait({"type": "websocket.disconnect", "code": 1006})

    async def end(self) -> None:
        """Wait until the application has let go; raises what it raised."""
        assert self.task is not None
        async with asyncio.timeout(SECONDS):
            await self.task

    @property
    def is_over(self) -> bool:
        """Whether the application has let go."""
        return self.task is not None and self.task.done()

    async def _receive(self) -> dict[str, Any]:
        event = await self.inbox.get()
        self.rig.count += event["type"] == "websocket.receive"
        return event

    async def _send(self, event: dict[str, Any]) -> None:
        if self.has_left:
            raise OSError("the client is gone")
        match event["type"]:
            case "websocket.send":
                text = event.get("text")
                self.heard.append(json.loads(text))
            case "websocket.close":
                self.answer = str(event.get("code", 1000))
                self.inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})
            case "websocket.http.response.start":
                self.answer = f"HTTP {event['status']}"


async def ask(app: Any, wanted: Request) -> int:
    """Send a request; return the status."""
    statuses: list[int] = []
    bodies = [{"type": "http.request", "body": wanted.body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if bodies:
            return bodies.pop()
        await asyncio.sleep(0.05)  # whoever waits for more is left
        return {"type": "http.disconnect"}

    async def send(event: dict[str, Any]) -> None:
        if event["type"] == "http.response.start":
            statuses.append(event["status"])

    scope = _scope("http", wanted.path, wanted.query, wanted.headers) | {"method": wanted.method}
    async with asyncio.timeout(SECONDS):
        await app(scope, receive, send)
    return statuses[0] if statuses else 499


def voice() -> bytes:
    """Return a second of something like speech, in silence."""
    t = np.arange(16_000) / 16_000
    tone = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 12))
    sound = np.concatenate([np.zeros(8_000), tone * (0.6 + 0.4 * np.sin(25 * t)) * 0.15])
    sound = np.concatenate([sound, np.zeros(8_000)])
    return (
        ((sound + np.random.default_rng(0).normal(0, 1e-4, len(sound))) * 32767)
        .astype("<i2")
        .tobytes()
    )


class Rig:
    """The server without its sockets, and what was counted."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.answers: Counter[tuple[str, str]] = Counter()
        self.count = 0
        """Frames that the server has taken, and requests that it answered."""
        self.app: Any = None
        self.transcript: str | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[Rig]:
        """Run the server for the length of a block."""
        make_app = server_module.make_app

        def keep(*arguments: Any, **options: Any) -> Any:
            self.app = make_app(*arguments, **options)
            return self.app

        server_module.make_app = keep  # type: ignore[assignment]
        config = Config(
            listen=ListenConfig(port=0),
            limits=LimitsConfig(max_sessions=64, max_message_bytes=100_000, drain_seconds=1.0),
            scheduler=SchedulerConfig(busy_share=0.0),
            recogniser=RecogniserConfig(model="fake"),
        )
        server = server_module.build(config, lambda _: FakeRecogniser())
        serving = None
        try:
            ready = asyncio.Event()
            serving = self.loop.create_task(server.serve(lambda _: ready.set()))
            self.run(asyncio.wait_for(ready.wait(), 60))
            yield self
        finally:
            server_module.make_app = make_app
            server.stop()
            server.stop()
            if serving is not None:
                self.run(asyncio.wait_for(serving, 60))
            self.loop.close()

    def run(self, work: Any) -> Any:
        """Run the loop until ``work`` is done."""
        return self.loop.run_until_complete(work)

    async def open(self, api: Api, query: str) -> Conversation:
        """Begin a conversation."""
        conversation = Conversation(api, self)
        conversation.begin(self.app, _scope("websocket", api.path, query.encode(), api.headers))
        await asyncio.sleep(0)
        return conversation

    async def close(self, conversation: Conversation) -> None:
        """Wait for the end and count the answer."""
        await conversation.end()
        answer = "left" if conversation.has_left else conversation.answer
        self.answers[conversation.api.name, answer] += 1
        assert answer not in ("HTTP 500", "1011"), (conversation.api.name, conversation.heard[-1:])


class Hostile(RuleBasedStateMachine):
    """Does anything that a client can do."""

    rig: ClassVar[Rig]

    @initialize()
    def seat_the_bystander(self) -> None:
        """Begin a good session, and say half of it."""

        async def begin() -> None:
            self.bystander = await self.rig.open(APIS[0], "")
            self.bystander.say('{"type":"start"}')
            self.bystander.say(voice()[:20_000])

        self.live: list[Conversation] = []
        self.rig.run(begin())

    @rule(index=st.integers(0, len(APIS) - 1), seed=st.integers(0, 2**32), begins=st.booleans())
    def open(self, index: int, seed: int, begins: bool) -> None:
        """Open a conversation of any API."""
        chance, api = random.Random(seed), APIS[index]

        async def work() -> None:
            conversation = await self.rig.open(api, query(api, chance))
            if begins and api.opening:
                conversation.say(chance.choice(api.opening))
            self.live.append(conversation)

        if len(self.live) < 12:
            self.rig.run(work())

    @rule(
        place=st.integers(0, 11),
        seed=st.integers(0, 2**32),
        count=st.integers(1, _BULK),
        waits=st.booleans(),
        spoilt=st.sampled_from((0.0, 0.02, 0.1, 0.5)),
    )
    def say(self, place: int, seed: int, count: int, waits: bool, spoilt: float) -> None:
        """Send frames, with or without giving the server time between them."""
        chance = random.Random(seed)

        async def work() -> None:
            # Who is still there depends on time, what is done may not: nobody left, one comes.
            if not self.live:
                self.live.append(await self.rig.open(APIS[place % len(APIS)], ""))
            conversation = self.live[place % len(self.live)]
            for _ in range(count):
                if conversation.is_over:
                    self.live.remove(conversation)
                    await self.rig.close(conversation)
                    break
                conversation.say(frame(conversation.api, chance, spoilt))
                if waits:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)

        self.rig.run(work())

    @rule(place=st.integers(0, 11), is_rude=st.booleans())
    def end(self, place: int, is_rude: bool) -> None:
        """End a conversation, or be gone."""
        if self.live:
            conversation = self.live.pop(place % len(self.live))
            self.rig.run(self._end(conversation, is_rude))

    @rule(seed=st.integers(0, 2**32), count=st.integers(1, 6))
    def ask(self, seed: int, count: int) -> None:
        """Send HTTP requests."""
        chance = random.Random(seed)

        async def work() -> None:
            wanted = [request(chance) for _ in range(count)]
            statuses = await asyncio.gather(*(ask(self.rig.app, each) for each in wanted))
            for each, status in zip(wanted, statuses, strict=True):
                self.rig.answers["http", f"HTTP {status}"] += 1
                assert status != 500, each

        self.rig.count += count
        self.rig.run(work())

    def teardown(self) -> None:
        """Everybody ends, and the bystander has lost nothing."""
        if not hasattr(self, "bystander"):
            return

        async def work() -> None:
            ends = (self._end(each, bool(place % 2)) for place, each in enumerate(self.live))
            await asyncio.gather(*ends)
            self.bystander.say(voice()[20_000:])
            self.bystander.say('{"type":"stop"}')
            await self.rig.close(self.bystander)

        self.rig.run(work())
        said = " ".join(each["text"] for each in self.bystander.heard if each["type"] == "final")
        assert self.bystander.heard[-1]["type"] == "done"
        self.rig.transcript = self.rig.transcript or said
        assert said
        assert said == self.rig.transcript

    async def _end(self, conversation: Conversation, is_rude: bool) -> None:
        if not is_rude:
            conversation.say(conversation.api.last)
            # What ends no conversation of this API in this state (a flush that is not awaited, an
            # event that is answered with an error) must at least let the client go.
            assert conversation.task is not None
            await asyncio.wait([conversation.task], timeout=conversation.api.patience)
        if conversation.task is not None and not conversation.task.done():
            conversation.leave()
        await self.rig.close(conversation)


def run(count: int, *, shrinks: bool = True) -> Rig:
    """Send at least ``count`` frames and requests; raises where something does not hold.

    Args:
        count: of frames that the server takes, and requests.
        shrinks: whether to find the shortest way to a failure, which takes minutes.
    """
    rig = Rig()
    Hostile.rig = rig
    machine = type("Machine", (Hostile,), {})
    began = last = time.monotonic()
    with rig.running():
        while rig.count < count:
            examples = max(1, min(200, (count - rig.count) // (_EXAMPLE_STEPS * 25)))
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=_EXAMPLE_STEPS,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate, Phase.shrink] if shrinks else [Phase.generate],
                    suppress_health_check=list(HealthCheck),
                ),
            )
            now = time.monotonic()
            if now - last > 20:
                last = now
                print(f"{rig.count} of {count} in {now - began:.0f} s", flush=True)
    return rig


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.long.hostile")
    parser.add_argument("--count", type=int, default=1_000_000, help="frames and requests")
    arguments = parser.parse_args()
    configure_logging("error")
    began = time.monotonic()
    rig = run(arguments.count)
    seconds = time.monotonic() - began
    print(
        f"{rig.count} frames and requests in {seconds:.0f} s: no crash, no hang, nobody disturbed"
    )
    for (name, answer), times in sorted(rig.answers.items()):
        print(f"{name:14} {answer:9} {times}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
