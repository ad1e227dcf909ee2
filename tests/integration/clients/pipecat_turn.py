"""Plays a file to a Pipecat service and prints what the service says: for the scripts beside it."""

import asyncio
import json
import sys

from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    InputAudioRawFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.workers.runner import WorkerRunner

PIECE_SECONDS = 0.05
"""Of 100 ms of audio: slow enough for partials on a busy machine."""
QUIET_SECONDS = 8.0
"""After which nothing more is expected, of a busy machine too."""
logger.remove()
logger.add(sys.stderr, level="WARNING")


class Sink(FrameProcessor):
    """Prints the frames of some kinds that come out of the service."""

    def __init__(self, shown: tuple[type, ...]) -> None:
        super().__init__()
        self.shown = shown
        self.heard = asyncio.Event()

    async def process_frame(self, frame, direction) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, self.shown):
            text = getattr(frame, "text", None) or getattr(frame, "error", "")
            shown = {"kind": type(frame).__name__, "text": text}
            print(json.dumps(shown | {"finalized": getattr(frame, "finalized", None)}), flush=True)
            self.heard.set()
        await self.push_frame(frame, direction)


async def play(service, audio: bytes, shown: tuple[type, ...], is_turn: bool) -> None:
    """Play PCM at 16 kHz, as one turn that a VAD in the pipeline would find or without one."""
    sink, started = Sink(shown), asyncio.Event()
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
        if is_turn:
            await worker.queue_frame(VADUserStartedSpeakingFrame())
        for at in range(0, len(audio), 3200):
            piece = audio[at : at + 3200]
            await worker.queue_frame(InputAudioRawFrame(piece, sample_rate=16000, num_channels=1))
            await asyncio.sleep(PIECE_SECONDS)
        if is_turn:
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
