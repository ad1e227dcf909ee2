// The openai package's realtime client for JavaScript, which speaks TLS only.
// Arguments: the server's https URL and a file of PCM at 24 kHz; NODE_EXTRA_CA_CERTS names a file
// with the server's certificate.

import fs from "node:fs";
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

const QUIET_MS = 8000; // after which nothing more is expected, of a busy machine too
const [url, file] = process.argv.slice(2);
const audio = fs.readFileSync(file);
const client = new OpenAI({ baseURL: `${url}/v1` });
const realtime = new OpenAIRealtimeWS({ model: "gpt-4o-transcribe" }, client);
const input = {
  format: { type: "audio/pcm", rate: 24000 },
  transcription: { model: "gpt-4o-transcribe", language: "en" },
  turn_detection: { type: "server_vad", silence_duration_ms: 500 },
};

let quiet = 0;
const wait = () => {
  clearTimeout(quiet);
  quiet = setTimeout(() => realtime.close(), QUIET_MS);
};
realtime.on("event", (event) => {
  console.log(JSON.stringify(event));
  wait();
});
realtime.on("error", (error) => {
  console.error(error);
  process.exit(1);
});
realtime.socket.on("close", (code) => {
  clearTimeout(quiet);
  console.log(JSON.stringify({ type: "closed", code }));
});
realtime.socket.on("open", () => {
  realtime.send({ type: "session.update", session: { type: "transcription", audio: { input } } });
  for (let at = 0; at < audio.length; at += 4800) {
    const piece = audio.subarray(at, at + 4800).toString("base64");
    realtime.send({ type: "input_audio_buffer.append", audio: piece });
  }
  realtime.send({ type: "input_audio_buffer.commit" });
  wait();
});
