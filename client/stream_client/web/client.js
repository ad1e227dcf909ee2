/**
 * A stream over WebSocket, for pages: audio in, messages out. No build step, no dependency.
 *
 *     import { connect } from "./client.js";
 *     const stream = await connect("/v1/stream", { start: { words: true } });
 *     await stream.send(pcm);                 // Int16Array in the rate of `start`
 *     stream.stop();
 *     for await (const message of stream) console.log(message.type, message);
 *
 * When the connection breaks it is opened again and the stream goes on, on whichever server answers;
 * what must be sent again is decided by resume.js.
 */

import { Connection, LocalProtocolError, SUBPROTOCOL, decode, encode } from "./protocol.js";
import { SendLog } from "./resume.js";

/** Bytes that may wait in the socket, and as many in the log, before `send` waits. */
const MAX_BUFFERED = 256 * 1024;
/** Bytes of one binary frame at most; waiting audio is joined up to this. */
const MAX_FRAME = 32 * 1024;
const POLL_MS = 20;
/** A WebSocket's `readyState` while it can be sent into. */
const OPEN = 1;
/** Code of the `notice` that is put in after a resume: partials start anew. */
export const RECONNECTED = "reconnected";

/** How a broken connection is opened again; as the Python client does. */
const RECONNECT = { attempts: 20, firstDelayMs: 250, maxDelayMs: 10_000, keepSeconds: 120 };

/** The stream ended otherwise than by `done`. */
export class StreamError extends Error {
  /**
   * @param {string} code a protocol error code, `refused` or `broken`
   * @param {{retryable?: boolean}} options whether another try may work
   */
  constructor(code, message, { retryable = false } = {}) {
    super(message);
    this.name = "StreamError";
    this.code = code;
    this.retryable = retryable;
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
 * @param {{start?: object, apiKey?: string, reconnect?: object | null, WebSocket?: typeof WebSocket}}
 *     options `start` holds fields of the protocol's `start`; `reconnect` says how a break is
 *     mended (attempts, firstDelayMs, maxDelayMs, keepSeconds), null that it is not
 * @returns {Promise<Stream>} once the server is ready
 * @throws {StreamError} the server did not let us in
 */
export async function connect(
  url,
  { start = {}, apiKey, reconnect = {}, WebSocket = globalThis.WebSocket } = {},
) {
  const open = () => new WebSocket(socketUrl(url), subprotocols(apiKey));
  const stream = new Stream(open, start, reconnect && { ...RECONNECT, ...reconnect });
  await stream.open();
  return stream;
}

/** A stream, over as many connections as it takes; made by {@link connect}. Iterate it. */
export class Stream {
  #dial;
  #start;
  #reconnect;
  #log;
  #mailbox = new Mailbox();
  #talk = null;
  #isStopped = false;
  #isOver = false;
  #progressed = false;
  #news = () => {};

  constructor(dial, start, reconnect) {
    this.#dial = dial;
    this.#start = decode("client", encode("client", { type: "start", ...start }));
    this.#reconnect = reconnect;
    const capacitySeconds = reconnect?.keepSeconds ?? 0;
    this.#log = new SendLog(this.#start, { capacitySeconds, keep: reconnect !== null });
    /** What the server said when the (latest) connection opened. */
    this.ready = null;
    /** Times that the stream was resumed. */
    this.reconnects = 0;
  }

  /** Connect and wait for `ready`. */
  open() {
    return new Promise((resolve, reject) => this.#run(resolve, reject));
  }

  /** Name of the session, for viewers; another after a break. */
  get session() {
    return this.ready?.session ?? null;
  }

  /** Send audio; resolves when there is room for more. */
  async send(data) {
    if (this.#isOver) return;
    this.#append(() => this.#log.appendAudio(bytesOf(data)));
    while (!this.#isOver && this.#mustWait()) await pause(POLL_MS);
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
    if (this.#isStopped || this.#isOver) return;
    this.#say({ type: "stop" });
    this.#isStopped = true;
  }

  /** Leave without waiting. */
  close() {
    this.#isOver = true;
    this.#mailbox.close();
    this.#talk?.close(1000);
  }

  [Symbol.asyncIterator]() {
    return this.#mailbox[Symbol.asyncIterator]();
  }

  #say(message) {
    // Checked as the server would, and with the fields that were left out.
    const whole = decode("client", encode("client", message));
    if (!this.#isOver) this.#append(() => this.#log.appendControl(whole));
  }

  #append(add) {
    if (this.#isStopped) throw new LocalProtocolError("the stream has been stopped");
    add();
    this.#news();
  }

  #mustWait() {
    // While disconnected only the log's capacity bounds what is taken, so that a microphone loses
    // nothing; while connected the socket sets the pace.
    return this.#log.isFull || (this.#talk && this.#log.unsentBytes > MAX_BUFFERED);
  }

  /** Hold conversations until one comes to its end. */
  async #run(opened, refused) {
    let start = this.#start;
    for (let attempt = 0; ; ) {
      this.#progressed = false;
      try {
        await this.#converse(start, opened);
        return this.#finish(null);
      } catch (error) {
        attempt = this.#progressed ? 0 : attempt + 1;
        const fatal = this.#whyNotAgain(error, attempt);
        if (fatal) {
          refused(fatal);
          return this.#finish(fatal);
        }
      }
      await pause(delay(this.#reconnect, attempt));
      if (this.#isOver) return this.#finish(null);
      start = this.#log.rewind(this.ready.resume_token);
    }
  }

  /** Return the error that ends the stream; null if it can be resumed. */
  #whyNotAgain(error, attempt) {
    if (this.#isOver || !this.ready || !error.retryable || !this.#reconnect) return error;
    if (!this.#log.canResume) {
      const why = `${error.message}; a container can be read only from its beginning: send PCM`;
      return new StreamError("broken", why);
    }
    if (attempt < this.#reconnect.attempts) return null;
    return new StreamError("broken", `${error.message}; gave up after ${attempt} tries`);
  }

  /** Hold one conversation. Returns after `done`; throws whatever else ended it. */
  async #converse(start, opened) {
    const talk = new Talk(this.#dial());
    try {
      await talk.open();
      talk.send(start);
      for await (const message of talk) {
        if (message.type === "ready") {
          this.#greet(talk, message, start);
          opened();
        } else {
          this.#take(message);
        }
        if (message.type === "done") return;
      }
    } finally {
      this.#talk = null;
      talk.close(1000);
      this.#news();
    }
  }

  #greet(talk, ready, start) {
    const isAgain = this.ready !== null;
    this.ready = ready;
    this.#talk = talk;
    this.#pump(talk);
    if (!isAgain) return;
    this.reconnects += 1;
    const from = Math.min(...start.resume.channels.map((place) => place.covered));
    const message = `the stream goes on from sample ${from}`;
    this.#mailbox.put({ type: "notice", code: RECONNECTED, message });
  }

  #take(message) {
    if (message.type === "ack" || message.type === "final") this.#progressed = true;
    this.#log.receive(message);
    this.#mailbox.put(message);
    // What is finishing anyway is finished where it is.
    const isMoving = message.type === "notice" && message.code === "draining" && !this.#isStopped;
    if (isMoving && this.#log.canResume)
      throw new StreamError("draining", message.message, { retryable: true });
  }

  /** Send what is in the log and what comes, as the socket takes it, until the talk is over. */
  async #pump(talk) {
    while (this.#talk === talk) {
      const item = talk.bufferedAmount > MAX_BUFFERED ? undefined : this.#log.take(MAX_FRAME);
      if (item === undefined) await pause(POLL_MS);
      else if (item === null) await new Promise((resolve) => (this.#news = resolve));
      else talk.send(item);
    }
  }

  #finish(error) {
    this.#isOver = true;
    this.#mailbox.close(error);
  }
}

/** One connection: frames to messages and back, in legal order. Iterate it; ends by throwing. */
class Talk {
  #socket;
  #connection = new Connection("client");
  #mailbox = new Mailbox();

  constructor(socket) {
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.addEventListener("message", (event) => this.#receive(event.data));
    socket.addEventListener("close", (event) => {
      this.#connection.close();
      const why = event.reason || `the connection broke (${event.code})`;
      this.#mailbox.close(new StreamError("broken", why, { retryable: true }));
    });
  }

  get bufferedAmount() {
    return this.#socket.bufferedAmount;
  }

  open() {
    const error = new StreamError("refused", "the server did not let us in", { retryable: true });
    return new Promise((resolve, reject) => {
      this.#socket.addEventListener("open", resolve, { once: true });
      for (const kind of ["error", "close"])
        this.#socket.addEventListener(kind, () => reject(error), { once: true });
    });
  }

  /** Send audio (bytes) or a message; into a socket that is closing nothing is sent any more. */
  send(item) {
    if (this.#connection.state === "closed" || this.#socket.readyState !== OPEN) return;
    if (item instanceof Uint8Array) {
      this.#connection.send("audio");
      this.#socket.send(item);
    } else {
      this.#connection.send(item);
      this.#socket.send(encode("client", item));
    }
  }

  close(code) {
    this.#connection.close();
    this.#socket.close(code);
  }

  [Symbol.asyncIterator]() {
    return this.#mailbox[Symbol.asyncIterator]();
  }

  #receive(data) {
    if (this.#connection.state === "closed") return;
    try {
      if (typeof data !== "string") throw new StreamError("broken", "the server sent no text");
      const message = decode("server", data);
      this.#connection.receive(message);
      if (message.type === "error" && message.fatal) {
        const { code, retryable } = message;
        this.#mailbox.close(new StreamError(code, message.message, { retryable }));
      } else {
        this.#mailbox.put(message);
      }
    } catch (error) {
      this.#mailbox.close(error);
      this.close(3002);
    }
  }
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Milliseconds before a try, half of it random so that clients spread. */
function delay({ firstDelayMs, maxDelayMs }, attempt) {
  const full = Math.min(firstDelayMs * 2 ** attempt, maxDelayMs);
  return full * (0.5 + Math.random() / 2);
}

/** Return a copy of samples, or bytes, as bytes: the caller may use its own again. */
function bytesOf(data) {
  if (data instanceof ArrayBuffer) return new Uint8Array(data.slice(0));
  return new Uint8Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength));
}
