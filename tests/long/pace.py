"""Play streams at the pace of speech, and the same at full speed; each says the same.

    python -m tests.long.pace --streams 4
    python -m tests.long.pace --streams 4 --ideal

At the pace of speech there are partials, guesses in pauses and neighbours in a step; at full speed
there are none, or others. A final is a function of its audio, so nothing may differ. This is
``rolling`` without the restarts: what differs here is not theirs. On a busy machine partials are
few; with ``--ideal`` there is no server, and each partial is there before the next audio comes. The
exit status is 0 where nothing differs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from stream_server.config import RecogniserConfig
from stream_server.server import load_recogniser
from tests.long.ideal import IdealStream
from tests.long.live import PIECE, Comparison, play_live, streams_of
from tests.long.play import Heard, play
from tests.long.servers import serving


async def run(arguments: argparse.Namespace) -> int:
    """Play the streams both ways; return 0 where nothing differs."""
    audios = streams_of(arguments.seconds, arguments.seed, arguments.streams)
    if arguments.ideal:
        wholes, heard = play_ideal(audios, arguments.model)
    else:
        wholes, heard = await play_served(audios, arguments.model)
    compared = Comparison(wholes, heard)
    played = f"{arguments.streams} live streams of {arguments.seconds:g} s ({arguments.model})"
    print(f"{played}: {compared}")
    compared.print_differences()
    return 0 if compared.is_same else 1


def play_ideal(audios: list[bytes], model: str) -> tuple[list[Heard], list[Heard]]:
    """Play the streams in this process; return what was heard at full speed and live."""
    config = RecogniserConfig(model=model, threads=1)
    recogniser = load_recogniser(config)
    recogniser.warm_up()
    return (
        [IdealStream(recogniser, config).play(audio, len(audio)) for audio in audios],
        [IdealStream(recogniser, config).play(audio, PIECE) for audio in audios],
    )


async def play_served(audios: list[bytes], model: str) -> tuple[list[Heard], list[Heard]]:
    """Play the streams to one server; return what was heard at full speed and live."""
    async with serving(1, ["--model", model, "--busy-share", "0"]) as (server,):
        url = f"ws://127.0.0.1:{server.port}/v1/stream"
        wholes = {audio: await play(url, audio) for audio in set(audios)}
        heard = await asyncio.gather(
            *(play_live(url, audio, number / len(audios)) for number, audio in enumerate(audios))
        )
    return [wholes[audio] for audio in audios], heard


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60, help="of each stream")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ideal", action="store_true", help="without a server, never late")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
