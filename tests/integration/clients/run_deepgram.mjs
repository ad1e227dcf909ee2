// Deepgram's JavaScript package: live, in turns, and a whole file.
//
// Arguments: the server's URL, a file of PCM at 16 kHz, `live`, `flux` or `file`.

import { readFileSync } from "node:fs";
import { DeepgramClient } from "@deepgram/sdk";

const [url, file, mode] = process.argv.slice(2);
const sockets = url.replace("http", "ws");
const environment = { base: url, production: sockets, agent: sockets, agentRest: url };
const client = new DeepgramClient({ apiKey: "sesame", environment });
const audio = readFileSync(file);
const raw = { encoding: "linear16", sample_rate: 16000 };

async function stream(connection) {
  const closed = new Promise((resolve) => connection.on("close", resolve));
  connection.on("message", (message) => console.log(JSON.stringify(message)));
  connection.on("error", (error) => console.error(error));
  connection.connect();
  await connection.waitForOpen();
  for (let at = 0; at < audio.length; at += 3200) {
    connection.sendMedia(audio.subarray(at, at + 3200));
  }
  if (mode === "live") connection.sendFinalize({ type: "Finalize" });
  connection.sendCloseStream({ type: "CloseStream" });
  const { code } = await closed;
  console.log(JSON.stringify({ type: "closed", code }));
  connection.close();
}

if (mode === "live") {
  const options = { model: "nova-3", punctuate: "true", interim_results: "true", ...raw };
  await stream(await client.listen.v1.connect(options));
} else if (mode === "flux") {
  await stream(await client.listen.v2.connect({ model: "flux-general-en", ...raw }));
} else {
  const options = { model: "nova-3", punctuate: true, utterances: true };
  const answer = await client.listen.v1.media.transcribeFile(audio, options);
  console.log(JSON.stringify(answer));
}
process.exit(0);
