"""The openai package's REST client: every format, events, models, errors.

Arguments: the server's URL and an audio file. OPENAI_BASE_URL is the server's, too.
"""

import json
import sys
from pathlib import Path

import openai

URL, FILE = sys.argv[1:]
client = openai.OpenAI(base_url=f"{URL}/v1", max_retries=0)


def show(name: str, value) -> None:
    dumped = value.model_dump() if hasattr(value, "model_dump") else value
    print(json.dumps({"name": name, "kind": type(value).__name__, "value": dumped}), flush=True)


def transcribe(**options):
    with Path(FILE).open("rb") as file:
        return client.audio.transcriptions.create(file=file, model="whisper-1", **options)


for kind in ("json", "text", "srt", "verbose_json", "vtt"):
    show(kind, transcribe(response_format=kind, language="en"))
show(
    "words",
    transcribe(response_format="verbose_json", timestamp_granularities=["word", "segment"]),
)
for event in transcribe(stream=True):
    show("event", event)
for model in openai.OpenAI().models.list():
    show("by environment", model)
for model in client.models.list():
    show("model", model)
    show("retrieved", client.models.retrieve(model.id))
try:
    transcribe(response_format="diarized_json", chunking_strategy="auto")
except openai.BadRequestError as error:
    show("refused", {"code": error.code, "param": error.param, "type": error.type})
try:
    with Path(FILE).open("rb") as file:
        client.audio.translations.create(file=file, model="whisper-1")
except openai.BadRequestError as error:
    show("translation", {"code": error.code})
try:
    client.models.retrieve("no-such-model")
except openai.NotFoundError as error:
    show("missing", {"code": error.code})
