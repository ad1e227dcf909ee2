"""A server whose model sleeps for as long as one on a CPU takes.

``python -m tests.long.imitation`` serves as ``stream-server serve`` does.
Its times do not depend on what else runs on the machine, so a test of the server's own promises can
be exact. The defaults are the embedded model's on one quiet core, about.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from stream_server.config import (
    Config,
    LimitsConfig,
    ListenConfig,
    RecogniserConfig,
    SchedulerConfig,
)
from stream_server.logs import configure_logging
from stream_server.recogniser.fake import FAKE_INFO, FakeRecogniser, FakeRow
from stream_server.recogniser.interface import (
    SAMPLE_RATE,
    Hypothesis,
    RecogniserInfo,
    Row,
    Utterance,
)
from stream_server.scheduler.costs import TurnCosts
from stream_server.server import Ready, build

CPU = TurnCosts(turn=0.010, row=0.005, audio=0.035)


@dataclass(slots=True)
class Sleeper(FakeRecogniser):
    """The fake, as slow as ``costs``."""

    info: RecogniserInfo = replace(FAKE_INFO, max_rows=8)
    costs: TurnCosts = field(default=CPU)

    def start(self, utterances: Sequence[Utterance]) -> Sequence[FakeRow]:
        """Make rows of utterances, and take time for each second of them."""
        seconds = sum(len(each.pcm) for each in utterances) / SAMPLE_RATE
        time.sleep(self.costs.audio * seconds)
        return FakeRecogniser.start(self, utterances)

    def step(self, rows: Sequence[Row]) -> Sequence[Hypothesis]:
        """Run a step, and take time for each row."""
        time.sleep(self.costs.predict(len(rows), 0.0))
        return FakeRecogniser.step(self, rows)


def main() -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.long.imitation")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--busy-share", type=float, default=SchedulerConfig().busy_share)
    arguments = parser.parse_args()
    config = Config(
        listen=ListenConfig(port=arguments.port),
        scheduler=SchedulerConfig(busy_share=arguments.busy_share),
        limits=LimitsConfig(drain_seconds=2.0),
        recogniser=RecogniserConfig(model="fake"),
    )

    def announce(ready: Ready) -> None:
        print(f"diffscribe imitation ready on {ready.url}", flush=True)

    configure_logging("warning")
    build(config, lambda _: Sleeper()).run(announce)
    return 0


if __name__ == "__main__":
    sys.exit(main())
