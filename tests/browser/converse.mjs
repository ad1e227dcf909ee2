// Talks to a server with the browser library; arguments: client.js, URL, key, file of 16 kHz PCM.
import { readFileSync } from "node:fs";

const [library, url, apiKey, file] = process.argv.slice(2);
const { StreamError, connect } = await import(library);
try {
  const stream = await connect(url, { start: { words: true, trace: true }, apiKey });
  const audio = readFileSync(file);
  for (let at = 0; at < audio.length; at += 3200) await stream.send(audio.subarray(at, at + 3200));
  stream.flush("f");
  stream.configure({ language: "en" });
  stream.stop();
  for await (const message of stream) console.log(JSON.stringify(message));
} catch (error) {
  if (!(error instanceof StreamError)) throw error;
  console.log(JSON.stringify({ type: "failed", code: error.code }));
}
