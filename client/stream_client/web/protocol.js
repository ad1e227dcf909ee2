/**
 * The diffscribe streaming protocol, version 1: messages, strict decoding, and what is legal when.
 *
 * Knows nothing of sockets or pages, and runs in browsers and in node. It passes the golden
 * conversations in protocol/vectors, and a test compares its tables with the Python ones.
 */

export const SUBPROTOCOL = "diffscribe.v1";
/** Hertz of every position. */
export const CLOCK_RATE = 16000;
/** Bytes of UTF-8 of a text frame, by who sends it. */
export const MAX_TEXT_BYTES = { client: 65536, server: 1048576 };

const nullable = (of) => ({ kind: "nullable", of });
const list = (of) => ({ kind: "list", of });
/** A field that may be left out; it then has the value `fallback`. */
const optional = (of, fallback) => ({ kind: "optional", of, fallback });

const Endpointing = {
  silence_ms: optional("integer", 500),
  max_segment_ms: optional("integer", 15000),
  min_speech_ms: optional("integer", 90),
};
const ResumeChannel = { covered: "integer", speaking: optional("boolean", false) };
const Resume = {
  token: "string",
  position: "integer",
  segment: optional("integer", 0),
  channels: optional(nullable(list(ResumeChannel)), null),
};
const Limits = {
  max_message_bytes: "integer",
  max_unprocessed_ms: "integer",
  idle_timeout_ms: "integer",
  max_session_ms: "integer",
};
const Word = { text: "string", start: "integer", end: "integer", confidence: "number" };
const Timings = {
  audio_ms: "number",
  queue_ms: "number",
  decode_ms: "number",
  steps: "integer",
};
const ERROR_CODES = [
  "bad_message", "invalid_field", "wrong_state", "too_large", "bad_audio", "unauthorized",
  "overloaded", "draining", "timeout", "limit", "recognition_failed", "internal",
]; // prettier-ignore

/** Sender -> `type` -> field -> its type. An array lists the values that are allowed. */
export const MESSAGES = {
  client: {
    start: {
      encoding: optional(["pcm_s16le", "pcm_f32le", "mulaw", "alaw", "webm", "ogg"], "pcm_s16le"),
      sample_rate: optional([8000, 16000, 24000, 44100, 48000], 16000),
      channels: optional("integer", 1),
      channel_mode: optional(["mix", "split"], "mix"),
      language: optional(nullable("string"), null),
      partial_interval_ms: optional("integer", 500),
      steps: optional(nullable("integer"), null),
      words: optional("boolean", false),
      endpointing: optional(Endpointing, {
        silence_ms: 500,
        max_segment_ms: 15000,
        min_speech_ms: 90,
      }),
      resume: optional(nullable(Resume), null),
      trace: optional("boolean", false),
    },
    flush: { id: optional(nullable("string"), null) },
    configure: {
      endpointing: optional(nullable(Endpointing), null),
      language: optional(nullable("string"), null),
      partial_interval_ms: optional(nullable("integer"), null),
    },
    stop: {},
  },
  server: {
    ready: {
      session: "string",
      resume_token: "string",
      model: "string",
      languages: list("string"),
      limits: Limits,
      version: optional("integer", 1),
    },
    ack: { samples: "integer" },
    speech_started: { segment: "integer", channel: "integer", at: "integer" },
    speech_ended: { segment: "integer", channel: "integer", at: "integer" },
    partial: {
      segment: "integer",
      channel: "integer",
      revision: "integer",
      stable: "string",
      tentative: "string",
      start: "integer",
      end: "integer",
    },
    final: {
      segment: "integer",
      channel: "integer",
      revision: "integer",
      text: "string",
      start: "integer",
      end: "integer",
      language: nullable("string"),
      confidence: "number",
      words: nullable(list(Word)),
      timings: Timings,
    },
    trace: {
      segment: "integer",
      channel: "integer",
      revision: "integer",
      canvases: list("string"),
    },
    flushed: { position: "integer", id: optional(nullable("string"), null) },
    notice: { code: "string", message: "string" },
    error: {
      code: ERROR_CODES,
      message: "string",
      field: nullable("string"),
      retryable: "boolean",
      fatal: "boolean",
    },
    done: { samples: "integer", segments: "integer" },
  },
};

/** The peer sent what is not legal; carries what to answer. */
export class ProtocolError extends Error {
  constructor(code, message, closeCode, field = null) {
    super(message);
    this.name = "ProtocolError";
    this.code = code;
    this.closeCode = closeCode;
    this.field = field;
  }
}

/** This side tried to send what is not legal now: a defect in the caller. */
export class LocalProtocolError extends Error {
  constructor(message) {
    super(message);
    this.name = "LocalProtocolError";
  }
}

/** Return the text frame that carries `message`, after checking it as its receiver would. */
export function encode(sender, message) {
  const text = JSON.stringify(message);
  decode(sender, text);
  return text;
}

/**
 * Return the message in a text frame, with fields that were left out filled in.
 *
 * @param {"client" | "server"} sender who sent it
 * @param {string} text the frame's payload
 * @throws {ProtocolError} it is no message of that side
 */
export function decode(sender, text) {
  const most = MAX_TEXT_BYTES[sender];
  if (text.length > most || (text.length * 3 > most && new TextEncoder().encode(text).length > most))
    throw new ProtocolError("too_large", `a message may have ${most} bytes of text`, 1009);
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ProtocolError("bad_message", "the text frame is not JSON", 1007);
  }
  if (!isObject(value))
    throw new ProtocolError("bad_message", "every text frame is a JSON object", 1007);
  const { type, ...fields } = value;
  if (typeof type !== "string" || !Object.hasOwn(MESSAGES[sender], type))
    throw new ProtocolError("bad_message", `the ${sender} sends no such type`, 1007, "$.type");
  return { type, ...checkStruct(fields, MESSAGES[sender][type], "$") };
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function checkStruct(value, shape, path) {
  if (!isObject(value)) throw invalid(path, "expected an object");
  for (const name of Object.keys(value))
    if (!Object.hasOwn(shape, name)) throw invalid(`${path}.${name.slice(0, 100)}`, "unknown field");
  const result = {};
  for (const [name, type] of Object.entries(shape)) {
    const place = `${path}.${name}`;
    if (Object.hasOwn(value, name)) result[name] = check(value[name], type, place);
    else if (type.kind === "optional") result[name] = structuredClone(type.fallback);
    else throw invalid(place, "missing required field");
  }
  return result;
}

function check(value, type, path) {
  if (Array.isArray(type)) {
    if (!type.includes(value)) throw invalid(path, `expected one of ${type.join(", ")}`);
    return value;
  }
  if (typeof type === "string") return checkPlain(value, type, path);
  switch (type.kind) {
    case "optional":
      return check(value, type.of, path);
    case "nullable":
      return value === null ? null : check(value, type.of, path);
    case "list":
      if (!Array.isArray(value)) throw invalid(path, "expected an array");
      return value.map((each, index) => check(each, type.of, `${path}[${index}]`));
    default:
      return checkStruct(value, type, path);
  }
}

function checkPlain(value, type, path) {
  const wanted = type === "integer" ? "number" : type;
  if (typeof value !== wanted) throw invalid(path, `expected ${type}`);
  // Beyond it JSON.parse has rounded already.
  if (type === "integer" && !Number.isSafeInteger(value)) throw invalid(path, "expected an integer");
  return value;
}

const invalid = (path, problem) => new ProtocolError("invalid_field", problem, 1008, path);

const REPORTS = [
  "ack", "speech_started", "speech_ended", "partial", "final", "trace", "flushed", "notice",
  "error",
]; // prettier-ignore
const stay = (names, state) => Object.fromEntries(names.map((name) => [name, state]));

/** Sender -> state -> event -> next state. A missing key is the error. */
export const TRANSITIONS = {
  client: {
    waiting_start: { start: "opening" },
    opening: {},
    streaming: { ...stay(["audio", "flush", "configure"], "streaming"), stop: "stopping" },
    stopping: {},
    closed: {},
  },
  server: {
    waiting_start: { fatal_error: "closed" },
    opening: { ready: "streaming", notice: "opening", fatal_error: "closed" },
    streaming: { ...stay(REPORTS, "streaming"), fatal_error: "closed" },
    stopping: { ...stay(REPORTS, "stopping"), done: "closed", fatal_error: "closed" },
    closed: {},
  },
};

/** The order of one conversation, seen from one side. `"audio"` stands for a binary frame. */
export class Connection {
  /** @param {"client" | "server"} role which side the caller is */
  constructor(role) {
    this.role = role;
    this.peer = role === "client" ? "server" : "client";
    this.state = "waiting_start";
  }

  /** Take note of what the peer sent; return the state after it. */
  receive(message) {
    const next = this.#next(this.peer, message);
    if (next === undefined) throw new ProtocolError("wrong_state", this.#refusal(message), 1002);
    return (this.state = next);
  }

  /** Take note of what the caller is about to send; return the state after it. */
  send(message) {
    const next = this.#next(this.role, message);
    if (next === undefined) throw new LocalProtocolError(this.#refusal(message));
    return (this.state = next);
  }

  /** Take note that the socket is gone. */
  close() {
    this.state = "closed";
  }

  #next(sender, message) {
    return TRANSITIONS[sender][this.state][eventOf(message)];
  }

  #refusal(message) {
    return `${eventOf(message)} may not be sent while ${this.state}`;
  }
}

function eventOf(message) {
  if (message === "audio") return "audio";
  return message.type === "error" && message.fatal ? "fatal_error" : message.type;
}
