"""Pipecat's OpenAI services: realtime with server VAD or manual turns, and a file for each turn.

Arguments: the server's URL, a file of PCM at 16 kHz, `vad`, `manual` or `rest`. With the last two
the whole file is one turn, as a VAD in the pipeline would find it.
"""

import asyncio
import json
import sys
from pathlib import Path

from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.stt import OpenAIRealtimeSTTService, OpenAISTTService
from pipecat.workers.runner import WorkerRunner

URL, FILE, MODE = sys.argv[1:]
AUDIO = Path(FILE).read_bytes()
QUIET_SECONDS = 2.0
SHOWN = (
    ErrorFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
)
logger.remove()
logger.add(sys.stderr, level="WARNING")


class Sink(FrameProcessor):
    """Prints what comes out of the service."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = asyncio.Event()

    async def process_frame(self, frame, direction) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, SHOWN):
            text = getattr(frame, "text", None) or getattr(frame, "error", "")
            print(json.dumps({"kind": type(frame).__name__, "text": text}), flush=True)
            self.heard.set()
        await self.push_frame(frame, direction)


def make_service():
    if MODE == "rest":
        return OpenAISTTService(api_key="sesame", base_url=f"{URL}/v1")
    url = URL.replace("http", "ws", 1) + "/v1/realtime"
    turns = {"type": "server_vad", "silence_duration_ms": 500} if MODE == "vad" else False
    return OpenAIRealtimeSTTService(api_key="sesame", base_url=url, turn_detection=turns)


async def main() -> None:
    sink, started = Sink(), asyncio.Event()
    worker = PipelineWorker(
        Pipeline([make_service(), sink]),
        cancel_on_idle_timeout=False,
        params=PipelineParams(audio_in_sample_rate=16000),
    )

    @worker.event_handler("on_pipeline_started")
    async def on_pipeline_started(worker, frame) -> None:
        started.set()

    async def say() -> None:
        await started.wait()
        await asyncio.sleep(0.3)  # nobody talks before the session is set up
        if MODE != "vad":
            await worker.queue_frame(VADUserStartedSpeakingFrame())
        for at in range(0, len(AUDIO), 3200):
            audio = AUDIO[at : at + 3200]
            await worker.queue_frame(InputAudioRawFrame(audio, sample_rate=16000, num_channels=1))
            await asyncio.sleep(0.01)
        if MODE != "vad":
            await worker.queue_frame(VADUserStoppedSpeakingFrame())
        try:
            while True:
                await asyncio.wait_for(sink.heard.wait(), QUIET_SECONDS)
                sink.heard.clear()
        except TimeoutError:
            await worker.queue_frame(EndFrame())

    runner = WorkerRunner()
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), say())


asyncio.run(main())
