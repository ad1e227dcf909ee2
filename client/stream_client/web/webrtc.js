/**
 * A stream over WebRTC, with the same face as client.js: a track in, messages out of a data channel.
 */

import { Mailbox, StreamError } from "./client.js";
import { decode, encode } from "./protocol.js";

const GATHER_MS = 2000;

/**
 * Open a stream.
 *
 * @param {MediaStreamTrack} track what is to be heard
 * @param {{base?: string, start?: object, apiKey?: string, name?: string}} options `name` is one
 *     under which viewers find the session, whenever it comes again
 * @returns {Promise<Call>} once the server has answered
 * @throws {StreamError} the server did not let us in
 */
export async function call(track, { base = location.origin, start = {}, apiKey, name } = {}) {
  const headers = { "Content-Type": "application/json" };
  if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
  const ice = await ask(new URL("/v1/webrtc/ice", base), { headers });
  const peer = new RTCPeerConnection({ iceServers: ice.iceServers, bundlePolicy: "max-bundle" });
  try {
    const made = new Call(peer, peer.createDataChannel("transcripts"));
    peer.addTransceiver(track, { direction: "sendonly" });
    await peer.setLocalDescription();
    await gathered(peer);
    const offer = { sdp: peer.localDescription.sdp, type: "offer", start };
    const body = JSON.stringify(name ? { ...offer, name } : offer);
    const answer = await ask(new URL("/v1/webrtc/offer", base), { method: "POST", headers, body });
    made.session = answer.session;
    await peer.setRemoteDescription({ sdp: answer.sdp, type: answer.type });
    await made.opened;
    return made;
  } catch (error) {
    peer.close();
    throw error;
  }
}

async function ask(url, options) {
  const response = await fetch(url, options);
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const { code = "refused", message = `the server said ${response.status}` } = body.error ?? {};
  throw new StreamError(code, message);
}

/** Wait for the candidates of this side: the whole offer goes in one request. */
function gathered(peer) {
  return new Promise((resolve) => {
    const check = () => peer.iceGatheringState === "complete" && resolve();
    peer.addEventListener("icegatheringstatechange", check);
    setTimeout(resolve, GATHER_MS);
    check();
  });
}

/** One conversation; made by {@link call}. Iterate it to get the messages. */
export class Call {
  #peer;
  #channel;
  #mailbox = new Mailbox();
  #isDone = false;

  constructor(peer, channel) {
    this.#peer = peer;
    this.#channel = channel;
    this.session = null;
    this.ready = null;
    /** Resolves when messages can come. */
    this.opened = new Promise((resolve, reject) => {
      channel.addEventListener("open", resolve, { once: true });
      peer.addEventListener("connectionstatechange", () => {
        if (peer.connectionState !== "failed") return;
        const error = new StreamError(
          "broken",
          "no way was found to the server: UDP may be blocked. Use the WebSocket instead",
        );
        reject(error);
        this.#end(error);
      });
    });
    channel.addEventListener("message", (event) => this.#receive(event.data));
    channel.addEventListener("close", () =>
      this.#end(new StreamError("broken", "the connection broke")),
    );
  }

  flush(id = null) {
    this.#say({ type: "flush", id });
  }

  configure(changes) {
    this.#say({ type: "configure", ...changes });
  }

  stop() {
    if (!this.#isDone) this.#say({ type: "stop" });
  }

  close() {
    this.#end(null);
  }

  [Symbol.asyncIterator]() {
    return this.#mailbox[Symbol.asyncIterator]();
  }

  #say(message) {
    if (this.#channel.readyState === "open") this.#channel.send(encode("client", message));
  }

  #receive(text) {
    try {
      const message = decode("server", text);
      if (message.type === "ready") this.ready = message;
      if (message.type === "error" && message.fatal)
        this.#end(new StreamError(message.code, message.message));
      else this.#mailbox.put(message);
      if (message.type === "done") this.#end(null);
    } catch (error) {
      this.#end(error);
    }
  }

  #end(error) {
    if (this.#isDone) return;
    this.#isDone = true;
    this.#mailbox.close(error);
    this.#peer.close();
  }
}
