/**
 * A stream over WebSocket, for pages: audio in, messages out. No build step, no dependency.
 *
 *     import { connect } from "./client.js";
 *     const stream = await connect("/v1/stream", { start: { words: true } });
 *     await stream.send(pcm);                 // Int16Array in the rate of `start`
 *     stream.stop();
 *     for await (const message of stream) console.log(message.type, message);
 */

import { Connection, SUBPROTOCOL, decode, encode } from "./protocol.js";

/** Bytes that may wait in the socket before `send` waits. */
const MAX_BUFFERED = 256 * 1024;
const POLL_MS = 20;

/** The stream ended otherwise than by `done`. */
export class StreamError extends Error {
  /** @param {string} code a protocol error code, `refused` or `broken` */
  constructor(code, message) {
    super(message);
    this.name = "StreamError";
    this.code = code;
  }
}

/** Messages that were received and not read yet; the end is a message list that is closed. */
export class Mailbox {
  #messages = [];
  #waiting = null;
  #end = null;

  put(message) {
    this.#messages.push(message);
    this.#wake();
  }

  /** Nothing more comes; a reader that has read all gets `error`, if there is one. */
  close(error = null) {
    this.#end ??= { error };
    this.#wake();
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      if (this.#messages.length) yield this.#messages.shift();
      else if (this.#end?.error) throw this.#end.error;
      else if (this.#end) return;
      else await new Promise((resolve) => (this.#waiting = resolve));
    }
  }

  #wake() {
    this.#waiting?.();
    this.#waiting = null;
  }
}

/** The subprotocols to offer: ours and, as browsers can set no header, the key. */
export function subprotocols(apiKey) {
  if (!apiKey) return [SUBPROTOCOL];
  const bytes = String.fromCharCode(...new TextEncoder().encode(apiKey));
  const packed = btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return [SUBPROTOCOL, `diffscribe.key.${packed}`];
}

/** Return `path` on the server as a WebSocket address. */
export function socketUrl(path, base = globalThis.location?.href) {
  const url = new URL(path, base);
  url.protocol = url.protocol.replace(/^http/, "ws");
  return url.href;
}

/**
 * Open a stream.
 *
 * @param {string} url path or address of `/v1/stream`
 * @param {{start?: object, apiKey?: string, WebSocket?: typeof WebSocket}} options `start` holds
 *     fields of the protocol's `start`
 * @returns {Promise<Stream>} once the server is ready
 * @throws {StreamError} the server did not let us in
 */
export async function connect(url, { start = {}, apiKey, WebSocket = globalThis.WebSocket } = {}) {
  const socket = new WebSocket(socketUrl(url), subprotocols(apiKey));
  socket.binaryType = "arraybuffer";
  const stream = new Stream(socket);
  await stream.open(start);
  return stream;
}

/** One conversation; made by {@link connect}. Iterate it to get the messages. */
export class Stream {
  #socket;
  #connection = new Connection("client");
  #mailbox = new Mailbox();

  constructor(socket) {
    this.#socket = socket;
    /** The server's first message. */
    this.ready = null;
    socket.addEventListener("message", (event) => this.#receive(event.data));
    socket.addEventListener("close", (event) => this.#close(event));
  }

  /** Say `start` and wait for `ready`. */
  async open(start) {
    await new Promise((resolve, reject) => {
      this.#socket.addEventListener("open", resolve, { once: true });
      const refused = () => reject(new StreamError("refused", "the server did not let us in"));
      for (const kind of ["error", "close"])
        this.#socket.addEventListener(kind, refused, { once: true });
    });
    this.#say({ type: "start", ...start });
    for await (const message of this.#mailbox) {
      if (message.type === "ready") {
        this.ready = message;
        return;
      }
    }
  }

  /** Name of the session, for viewers. */
  get session() {
    return this.ready?.session ?? null;
  }

  /** Send audio; resolves when there is room for more. */
  async send(data) {
    if (this.#connection.state === "closed") return;
    this.#connection.send("audio");
    this.#socket.send(data);
    while (this.#socket.bufferedAmount > MAX_BUFFERED && this.#connection.state !== "closed")
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }

  /** Ask for a final of everything so far. */
  flush(id = null) {
    this.#say({ type: "flush", id });
  }

  /** Change language, endpointing or the interval of partials from here on. */
  configure(changes) {
    this.#say({ type: "configure", ...changes });
  }

  /** Say that no more audio comes; the last message will be `done`. */
  stop() {
    if (this.#connection.state === "streaming") this.#say({ type: "stop" });
  }

  /** Leave without waiting. */
  close() {
    this.#connection.close();
    this.#mailbox.close();
    this.#socket.close(1000);
  }

  [Symbol.asyncIterator]() {
    return this.#mailbox[Symbol.asyncIterator]();
  }

  #say(message) {
    const text = encode("client", message);
    this.#connection.send(message);
    this.#socket.send(text);
  }

  #receive(data) {
    if (this.#connection.state === "closed") return;
    try {
      if (typeof data !== "string") throw new StreamError("broken", "the server sent no text");
      const message = decode("server", data);
      this.#connection.receive(message);
      if (message.type === "error" && message.fatal)
        this.#mailbox.close(new StreamError(message.code, message.message));
      else this.#mailbox.put(message);
      if (message.type === "done") this.#mailbox.close();
    } catch (error) {
      this.#connection.close();
      this.#mailbox.close(error);
      this.#socket.close(3002);
    }
  }

  #close(event) {
    this.#connection.close();
    const why = event.reason || `the connection broke (${event.code})`;
    this.#mailbox.close(new StreamError("broken", why));
  }
}
