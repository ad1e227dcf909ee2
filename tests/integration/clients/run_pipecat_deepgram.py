"""Pipecat's Deepgram service. Arguments: the server's URL, a file of PCM at 16 kHz."""

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
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat.workers.runner import WorkerRunner

URL, FILE = sys.argv[1:]
AUDIO = Path(FILE).read_bytes()
QUIET_SECONDS = 2.0
SHOWN = (ErrorFrame, InterimTranscriptionFrame, TranscriptionFrame)
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
            shown = {"kind": type(frame).__name__, "text": text}
            print(json.dumps(shown | {"finalized": getattr(frame, "finalized", None)}), flush=True)
            self.heard.set()
        await self.push_frame(frame, direction)


async def main() -> None:
    sink, started = Sink(), asyncio.Event()
    service = DeepgramSTTService(api_key="sesame", base_url=URL.replace("http", "ws", 1))
    worker = PipelineWorker(
        Pipeline([service, sink]),
        cancel_on_idle_timeout=False,
        params=PipelineParams(audio_in_sample_rate=16000),
    )

    @worker.event_handler("on_pipeline_started")
    async def on_pipeline_started(worker, frame) -> None:
        started.set()

    async def say() -> None:
        await started.wait()
        await asyncio.sleep(0.3)  # nobody talks before the session is set up
        await worker.queue_frame(VADUserStartedSpeakingFrame())
        for at in range(0, len(AUDIO), 3200):
            audio = AUDIO[at : at + 3200]
            await worker.queue_frame(InputAudioRawFrame(audio, sample_rate=16000, num_channels=1))
            await asyncio.sleep(0.01)
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
