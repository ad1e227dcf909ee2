// The openai package for JavaScript: a file with word times, then as events.
// Arguments: the server's URL and an audio file. OPENAI_BASE_URL is the server's, too.

import fs from "node:fs";
import OpenAI from "openai";

const [url, file] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, maxRetries: 0 });
const show = (name, value) => console.log(JSON.stringify({ name, value }));
const ask = (options) =>
  client.audio.transcriptions.create({
    file: fs.createReadStream(file),
    model: "whisper-1",
    ...options,
  });

show(
  "words",
  await ask({ response_format: "verbose_json", timestamp_granularities: ["word", "segment"] }),
);
for await (const event of await ask({ stream: true })) show("event", event);
for await (const model of new OpenAI().models.list()) show("by environment", model);
for await (const model of client.models.list()) show("model", model);
try {
  await ask({ response_format: "diarized_json" });
} catch (error) {
  show("refused", { status: error.status, code: error.code, param: error.param });
}
