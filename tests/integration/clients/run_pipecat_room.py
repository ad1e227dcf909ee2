"""Takes the minutes of a room with Pipecat: one service for each participant, side by side.

Arguments: the server's URL, `realtime` (OpenAI's API) or `deepgram`, and a folder with a file of
PCM at 16 kHz for each participant, named after them. Transports with several people (Daily,
LiveKit) bring their audio in frames with a `user_id`, as here.
"""

import asyncio
import contextlib
import json
import sys
from pathlib import Path

from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
    UserAudioRawFrame,
)
from pipecat.pipeline.parallel_pipeline import ParallelPipeline
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.filters.function_filter import FunctionFilter
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat.services.openai.stt import OpenAIRealtimeSTTService
from pipecat.workers.runner import WorkerRunner

URL, API, FOLDER = sys.argv[1:]
TRACKS = {file.stem: file.read_bytes() for file in sorted(Path(FOLDER).glob("*.pcm"))}
WS = URL.replace("http", "ws", 1)
TRAILING_SECONDS = 3
QUIET_SECONDS = 6
SPEED = 2
"""Times the pace of speech."""
logger.remove()
logger.add(sys.stderr, level="WARNING")


def make_service():
    if API == "deepgram":
        return DeepgramSTTService(api_key="sesame", base_url=WS)
    turns = {"type": "server_vad", "silence_duration_ms": 500}
    url = f"{WS}/v1/realtime"
    return OpenAIRealtimeSTTService(api_key="sesame", base_url=url, turn_detection=turns)


def only(user: str) -> FunctionFilter:
    async def wants(frame) -> bool:
        return not isinstance(frame, UserAudioRawFrame) or frame.user_id == user

    return FunctionFilter(wants, filter_system_frames=True)


class Minutes(FrameProcessor):
    def __init__(self) -> None:
        super().__init__()
        self.heard = asyncio.Event()

    async def process_frame(self, frame, direction) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InterimTranscriptionFrame | TranscriptionFrame):
            self.heard.set()
        if isinstance(frame, TranscriptionFrame):
            shown = {"speaker": frame.user_id, "text": frame.text, "final": True}
            print(json.dumps(shown), flush=True)
        elif isinstance(frame, ErrorFrame):
            print(json.dumps({"error": frame.error}), flush=True)
        await self.push_frame(frame, direction)


async def main() -> None:
    branches = [[only(name), make_service()] for name in TRACKS]
    minutes = Minutes()
    worker = PipelineWorker(
        Pipeline([ParallelPipeline(*branches), minutes]),
        cancel_on_idle_timeout=False,
        params=PipelineParams(audio_in_sample_rate=16000),
    )
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def on_pipeline_started(worker, frame) -> None:
        started.set()

    async def speak() -> None:
        await started.wait()
        await asyncio.sleep(0.5)
        silence = bytes(2 * 16000 * TRAILING_SECONDS)
        length = len(next(iter(TRACKS.values()))) + len(silence)
        for at in range(0, length, 3200):
            for name, track in TRACKS.items():
                audio = (track + silence)[at : at + 3200]
                frame = UserAudioRawFrame(
                    audio=audio, sample_rate=16000, num_channels=1, user_id=name
                )
                await worker.queue_frame(frame)
            await asyncio.sleep(0.1 / SPEED)
        # Audio does not keep its place before the end: on a busy machine it may still be under way.
        with contextlib.suppress(TimeoutError):
            while True:
                minutes.heard.clear()
                await asyncio.wait_for(minutes.heard.wait(), QUIET_SECONDS)
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner()
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), speak())


asyncio.run(main())
