// Replays golden conversations with the browser library; arguments: protocol.js, then files.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const [library, ...files] = process.argv.slice(2);
const protocol = await import(library);
const { Connection, LocalProtocolError, ProtocolError, decode, encode } = protocol;

function read(frame) {
  if (frame.audio_bytes === undefined) return decode(frame.from, frame.text);
  assert.ok(frame.audio_bytes > 0);
  return "audio";
}

function refuse(frame, sender, receiver) {
  const before = receiver.state;
  let caught = null;
  try {
    receiver.receive(read(frame));
  } catch (error) {
    assert.ok(error instanceof ProtocolError, String(error));
    caught = { code: error.code, close_code: error.closeCode, field: error.field };
  }
  assert.deepEqual(caught, frame.error);
  assert.equal(receiver.state, before);
  if (caught.code === "wrong_state")
    assert.throws(() => sender.send(read(frame)), LocalProtocolError);
}

function accept(frame, sender, receiver) {
  const message = read(frame);
  if (frame.text !== undefined)
    assert.deepEqual(decode(frame.from, encode(frame.from, message)), message);
  assert.equal(sender.send(message), frame.state);
  assert.equal(receiver.receive(message), frame.state);
}

let frames = 0;
for (const file of files) {
  const [, ...conversation] = readFileSync(file, "utf8").trim().split("\n").map((l) => JSON.parse(l));
  const sides = { client: new Connection("client"), server: new Connection("server") };
  for (const frame of conversation) {
    const other = frame.from === "client" ? "server" : "client";
    try {
      (frame.error ? refuse : accept)(frame, sides[frame.from], sides[other]);
    } catch (error) {
      error.message = `${file}: ${JSON.stringify(frame)}: ${error.message}`;
      throw error;
    }
    frames += 1;
  }
}
console.log(frames);
