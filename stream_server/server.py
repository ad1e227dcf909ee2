"""The only composition root: builds every part, starts, drains and stops them.

The port opens first, so that probes are answered while the model loads; then the model is loaded
and warmed up; then clients are let in. On the first signal nobody new is let in, running sessions
are told and get ``limits.drain_seconds`` to finish; a second signal stops at once. Uvicorn's own
handling of signals is not used: it would close every WebSocket at the first.

Nothing here is global: two servers can live in one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvicorn

from stream_server.config import Config, ListenConfig, RecogniserConfig
from stream_server.connections import ClosingProtocol, PunctualProtocol
from stream_server.errors import ConfigError, Draining
from stream_server.metrics import Metrics
from stream_server.recogniser.interface import Recogniser
from stream_server.scheduler.engine import Engine
from stream_server.session.driver import Services
from stream_server.tls import make_context
from stream_server.tracing import open_tracing
from stream_server.transports.admission import Admission
from stream_server.transports.auth import Keys
from stream_server.transports.calls import Calls
from stream_server.transports.http import WebParts, make_app
from stream_server.transports.hub import Hub
from stream_server.transports.ice import read_ice_server
from stream_server.transports.key_watch import KeyWatch
from stream_server.transports.quotas import Quotas
from stream_server.transports.tokens import Tokens
from stream_server.transports.wyoming import WyomingServer, info_event
from stream_server.version import version

_log = structlog.stdlib.get_logger(__name__)

LoadRecogniser = Callable[[RecogniserConfig], Recogniser]

_LAST_SECONDS = 3
"""What connections get to close after the drain, before they are cut."""
_ENGINE_SECONDS = 5.0
"""What the engine's thread gets to end its step."""
_FRAME_ALLOWANCE = 4
"""Uvicorn refuses frames this many times larger than a message may be, with a close code and no
explanation, so that a client a little over the limit is told what it is."""


def load_recogniser(
    config: RecogniserConfig, report: Callable[[str, int, int], None] | None = None
) -> Recogniser:
    """Load the model that ``config`` names; takes seconds.

    Args:
        config: names it.
        report: told what takes long, how many parts of it are done, and of how many.

    Raises:
        ModelError: it cannot be loaded.
    """
    # Imported here: torch takes seconds, and neither the fake nor ``--help`` wants it.
    if config.model == "fake":
        from stream_server.recogniser.fake import FakeRecogniser

        return FakeRecogniser()
    from stream_server.recogniser import checkpoint

    recogniser: Recogniser = checkpoint.load_recogniser(config, report)
    return recogniser


@dataclass(frozen=True, slots=True)
class Ready:
    """What is known once clients are let in."""

    url: str
    model: str
    load_seconds: float


class Server:
    """One server: ``serve`` runs it from start to stop.

    Args:
        config: everything that can be set.
        load: how the model is loaded; called off the loop.
    """

    def __init__(self, config: Config, load: LoadRecogniser) -> None:
        self._config = config
        self._load = load
        self._metrics = Metrics()
        self._tracing = (
            open_tracing(self._metrics.registry, version()) if config.listen.otel else None
        )
        self._port = config.listen.port
        self._stops = 0
        self._is_loading = False
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._key_watch: KeyWatch | None = None

    @property
    def port(self) -> int:
        """The port it listens on; the configured one before it does."""
        return self._port

    @property
    def url(self) -> str:
        """Where it is reached."""
        host = self._config.listen.host
        scheme = "https" if self._config.web.has_tls else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def stop(self) -> None:
        """Drain and stop; called again, stop at once. Thread-safe; harmless before and after."""
        self._stops += 1
        if self._loop is not None and self._stopping is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)

    def reload_keys(self) -> None:
        """Read the file of keys again; on the loop, as the handler of SIGHUP is called."""
        if self._key_watch is not None:
            self._key_watch.ask()

    def run(self, on_ready: Callable[[Ready], None] | None = None) -> None:
        """Serve until SIGTERM or SIGINT; call from the main thread.

        Raises:
            ConfigError: the address cannot be listened on.
            ModelError: the model cannot be loaded.
        """
        with asyncio.Runner(
            loop_factory=uvicorn.Config("", log_config=None).get_loop_factory()
        ) as runner:
            runner.run(self._serve_with_signals(on_ready))

    async def _serve_with_signals(self, on_ready: Callable[[Ready], None] | None) -> None:
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._receive_signal, each)
        if self._config.keys.keys_file:  # else a terminal that hangs up ends the server, as ever
            loop.add_signal_handler(signal.SIGHUP, self.reload_keys)
        await self.serve(on_ready)

    def _receive_signal(self, number: signal.Signals) -> None:
        self.stop()
        if self._stops > 1 and self._is_loading:
            # The thread that loads cannot be interrupted, and nobody is inside yet.
            os._exit(128 + number)

    async def serve(self, on_ready: Callable[[Ready], None] | None = None) -> None:
        """Serve until :meth:`stop`.

        Args:
            on_ready: called once, on the loop, when clients are let in.

        Raises:
            ConfigError: the address cannot be listened on.
            ModelError: the model cannot be loaded.
        """
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        if self._stops:
            return
        config = self._config
        keys = _make_keys(config)
        quotas = Quotas(config.keys.max_key_sessions, config.keys.max_key_audio_s)
        admission = Admission(config.limits.max_sessions, quotas)
        seconds = config.limits.send_timeout_ms / 1000 + _LAST_SECONDS
        with _listen(config.listen, seconds) as listener, contextlib.ExitStack() as stack:
            self._port = listener.getsockname()[1]
            wyoming = None
            if port := config.listen.wyoming_port:
                wyoming = stack.enter_context(_listen(config.listen, seconds, "wyoming_port", port))
            ice_servers = [read_ice_server(text) for text in config.web.ice_server]
            hub = Hub(config.limits.max_history)
            calls = Calls(admission, hub, config.limits, ice_servers)
            knows_names = keys.is_open and not config.listen.allow_anonymous
            app = make_app(
                admission,
                keys,
                self._metrics,
                config.limits,
                version(),
                WebParts(hub, calls, config.web.allow_origin, knows_names),
            )
            web = _Web(_uvicorn_config(app, config))
            serving = asyncio.create_task(web.serve([listener]))
            if config.keys.keys_file:
                self._key_watch = KeyWatch(keys, admission)
                stack.callback(asyncio.create_task(self._key_watch.run()).cancel)
            with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="audio") as executor:
                try:
                    await self._live(admission, hub, executor, on_ready, serving, wyoming)
                finally:
                    admission.close()
                    await calls.close()
                    hub.close()
                    web.should_exit = True
                    await asyncio.wait([serving])
            serving.result()  # if the web server itself broke, say so

    async def _live(
        self,
        admission: Admission,
        hub: Hub,
        executor: ThreadPoolExecutor,
        on_ready: Callable[[Ready], None] | None,
        serving: asyncio.Task[None],
        wyoming_listener: socket.socket | None,
    ) -> None:
        """Load, let clients in, and drain when told to."""
        assert self._stopping is not None
        began, self._is_loading = time.monotonic(), True
        engine: Engine | None = None
        wyoming: WyomingServer | None = None
        stopping = asyncio.create_task(self._stopping.wait())
        loading = asyncio.create_task(asyncio.to_thread(self._start_engine))
        try:
            await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self._stops:
                return
            engine, recogniser = loading.result()
            self._is_loading = False
            draining = asyncio.Event()
            services = Services(
                engine=engine,
                info=recogniser.info,
                limits=self._config.limits,
                segmenter=self._config.segmenter,
                metrics=self._metrics,
                executor=executor,
                recogniser=self._config.recogniser,
                draining=draining,
                audience=hub,
                tracing=self._tracing,
            )
            admission.open(services, lambda: engine is not None and engine.is_ready, engine.fits)
            self._metrics.record_build(version=version(), model=recogniser.info.name)
            if wyoming_listener is not None:
                info = info_event(recogniser.info, version())
                wyoming = WyomingServer(admission, self._metrics, self._config.limits, info)
                await wyoming.start(wyoming_listener)
            if on_ready is not None:
                on_ready(Ready(self.url, recogniser.info.name, time.monotonic() - began))
            _log.info("ready", model=recogniser.info.name, port=self.port)
            await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            await self._drain(admission, draining)
        finally:
            stopping.cancel()
            if wyoming is not None:
                await wyoming.close()
            if engine is None:
                # A thread cannot be interrupted: the model is let load to its end.
                with contextlib.suppress(Exception):
                    engine, _ = await loading
            if engine is not None:
                await asyncio.to_thread(engine.close, _ENGINE_SECONDS)
            if self._tracing is not None:
                await asyncio.to_thread(self._tracing.close)

    def _start_engine(self) -> tuple[Engine, Recogniser]:
        recogniser = self._load(self._config.recogniser)
        if self._config.recogniser.model != "fake":  # which wants no torch
            from stream_server.recogniser.memory import gpu_memory

            self._metrics.watch_gpu(gpu_memory)
        engine = Engine(
            recogniser, self._config.scheduler, self._metrics, measures=True, tracing=self._tracing
        )
        try:
            engine.start()
        except BaseException:
            engine.close(0)
            raise
        return engine, recogniser

    async def _drain(self, admission: Admission, draining: asyncio.Event) -> None:
        """Let running sessions finish: within the limit, and until a second signal."""
        assert self._stopping is not None
        admission.close()
        draining.set()
        _log.info("draining", sessions=admission.inside)
        self._stopping.clear()
        if self._stops > 1:
            self._stopping.set()
        empty = asyncio.create_task(admission.wait_until_empty())
        again = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait(
                {empty, again},
                timeout=self._config.limits.drain_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            empty.cancel()
            again.cancel()
        if admission.inside:
            _log.warning("stopping with sessions running", sessions=admission.inside)
            await admission.dismiss(Draining("the server stops now; connect to another"))


def build(config: Config, load: LoadRecogniser = load_recogniser) -> Server:
    """Return the server that ``config`` describes; nothing runs yet.

    Args:
        config: everything that can be set.
        load: how the model is loaded; tests and embedding programs bring their own.
    """
    return Server(config, load)


def _make_keys(config: Config) -> Keys:
    file = Path(config.keys.keys_file) if config.keys.keys_file else None
    return Keys(config.listen.api_key, file, Tokens(config.keys.token_secret))


class _Web(uvicorn.Server):
    """Uvicorn without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _uvicorn_config(app: object, config: Config) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=PunctualProtocol,
        ws=ClosingProtocol,
        ws_max_size=config.limits.max_message_bytes * _FRAME_ALLOWANCE,
        ws_per_message_deflate=False,
        access_log=False,
        log_config=None,
        lifespan="off",
        server_header=False,
        ssl_context_factory=(lambda *_: make_context(config.web, config.listen.host))
        if config.web.has_tls
        else None,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )


@contextlib.contextmanager
def _listen(
    listen: ListenConfig, seconds: float, option: str = "port", port: int | None = None
) -> Iterator[socket.socket]:
    """Give a listening socket, open from before the model loads.

    Args:
        listen: where.
        seconds: that a client may leave what it was sent unread, or its network may be gone.
        option: that names the port.
        port: other than the one of ``listen``.
    """
    port = listen.port if port is None else port
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    try:
        listener = socket.create_server((listen.host, port), family=family, backlog=2048)
    except OSError as error:
        key, value = f"listen.{option}", port
        if not isinstance(error, PermissionError) and error.errno != 98:
            key, value = "listen.host", listen.host  # type: ignore[assignment]
        raise ConfigError(key, value, f"an address to listen on ({error.strerror})") from error
    with listener:
        # Accepted sockets inherit it. Asyncio sets it only on sockets that were made with the
        # protocol's number, and without it a final waits 40 ms behind `speech_ended`.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Also while the client's window is shut (RFC 5482, and tcp(7)): whatever has ended here
        # does not wait for ever in a buffer of the system's.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
        yield listener


__all__ = ["LoadRecogniser", "Ready", "Server", "build", "load_recogniser"]
