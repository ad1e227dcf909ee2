/**
 * What must be sent, and what must be sent again after a break: a log of audio and control.
 *
 * The same as resume.py of the Python client, line by line where it can be, and a test compares the
 * two. Pure: no sockets, no page, no clock. Offsets are bytes from the first one appended, positions
 * samples at 16 kHz on the media clock.
 */

import { CLOCK_RATE } from "./protocol.js";

const WIDTHS = { pcm_s16le: 2, pcm_f32le: 4, mulaw: 1, alaw: 1 };

/** Samples; a stream resumed a multiple of this from where it began is heard in the same frames. */
export const GRID = 320;
/** Samples sent again before those that no final covers. */
export const LEAD = 20 * CLOCK_RATE;
/** Samples behind the newest acknowledged one up to which all speech has been announced. */
export const QUIET = 4 * CLOCK_RATE;
/** Samples before the announced start of speech that its segment may begin at. */
export const PRE_ROLL = CLOCK_RATE;

/** Everything that a stream sends, from the first audio that may have to be sent again. */
export class SendLog {
  #start;
  #unitBytes = 0; // 20 ms; none for containers, whose bytes have no positions
  #capacity;
  #origin;
  #nextSegment;
  #pieces = []; // {offset, bytes}, one behind the other
  #base = 0; // offset of the first byte kept
  #end = 0;
  #cursor = 0; // offset of the next byte to send
  #controls = []; // {offset, message}
  #nextControl = 0; // index of the next control message to send
  #covered; // by channel
  #pending = new Map(); // "channel segment" -> {channel, segment, at}
  #ended = new Map(); // channel -> end of the newest speech
  #cuts; // {channel, at} where speech was cut and went on
  #acked;

  /**
   * @param {object} start fields of the message that opens the stream, all of them
   * @param {{capacitySeconds?: number, keep?: boolean}} options seconds of audio beyond the lead
   *     after which the log is full, and whether what has been sent is kept
   */
  constructor(start, { capacitySeconds = 120, keep = true } = {}) {
    this.#start = start;
    const width = WIDTHS[start.encoding] ?? 0;
    const rate = start.sample_rate * start.channels * width;
    this.#unitBytes = (rate * GRID) / CLOCK_RATE;
    this.canResume = keep && width > 0;
    this.#capacity = Math.floor(capacitySeconds * rate) || 1 << 20;
    if (this.canResume) this.#capacity += (LEAD / GRID) * this.#unitBytes;
    this.#origin = start.resume?.position ?? 0;
    this.#nextSegment = start.resume?.segment ?? 0;
    const count = start.channel_mode === "split" ? start.channels : 1;
    const anew = () => ({ covered: this.#origin, speaking: false });
    const places = start.resume?.channels ?? Array.from({ length: count }, anew);
    this.#covered = places.map((place) => place.covered);
    this.#cuts = places
      .map(({ covered, speaking }, channel) => ({ channel, at: covered, speaking }))
      .filter((each) => each.speaking);
    this.#acked = this.#origin;
  }

  /** Whether more audio must wait: for the server to read, or for finals to come. */
  get isFull() {
    return this.keptBytes > this.#capacity;
  }

  get unsentBytes() {
    return this.#end - this.#cursor;
  }

  get keptBytes() {
    return this.#end - this.#base;
  }

  /** @param {Uint8Array} bytes is kept, not copied */
  appendAudio(bytes) {
    if (!bytes.length) return;
    this.#pieces.push({ offset: this.#end, bytes });
    this.#end += bytes.length;
  }

  /** Add `flush`, `configure` or `stop` behind the audio appended so far. */
  appendControl(message) {
    this.#controls.push({ offset: this.#end, message });
  }

  /**
   * Return what is to be sent next, and move on.
   *
   * @returns {Uint8Array | object | null} audio, a message, or nothing
   */
  take(maxBytes) {
    let limit = this.#end;
    const placed = this.#controls[this.#nextControl];
    if (placed) {
      if (placed.offset <= this.#cursor) {
        this.#nextControl += 1;
        return placed.message;
      }
      limit = placed.offset;
    }
    const audio = this.#read(this.#cursor, Math.min(limit, this.#cursor + maxBytes));
    if (!audio.length) return null;
    this.#cursor += audio.length;
    if (!this.canResume) this.#drop(this.#cursor);
    return audio;
  }

  /** Take note of what the server said. */
  receive(message) {
    switch (message.type) {
      case "ack":
        this.#acked = Math.max(this.#acked, message.samples);
        return this.#dropCovered();
      case "speech_started": {
        const { channel, segment, at } = message;
        this.#pending.set(`${channel} ${segment}`, { channel, segment, at });
        // A cut ends speech where the next begins; after a pause its segment ends later.
        if (this.#ended.get(channel) === at) this.#cuts.push({ channel, at });
        this.#ended.delete(channel);
        return;
      }
      case "speech_ended":
        this.#ended.set(message.channel, message.at);
        return;
      case "final":
        return this.#receiveFinal(message);
      case "flushed":
        return this.#receiveFlushed();
    }
  }

  /**
   * Go back to before the first audio that no final covers.
   *
   * @param {string} token the resume token of the session that broke
   * @returns {object} fields of the message that opens the next connection
   */
  rewind(token) {
    if (!this.canResume) throw new Error("this stream keeps no audio to resume from");
    const places = this.#covered.map((_, channel) => this.#place(channel));
    this.#covered = places.map((place) => place.covered);
    this.#drop(this.#leadOffset(places));
    this.#cursor = this.#base;
    this.#nextControl = 0;
    this.#pending.clear();
    this.#ended.clear();
    const position = this.#origin + (this.#base / this.#unitBytes) * GRID;
    this.#acked = position;
    const resume = { token, position, segment: this.#nextSegment, channels: places };
    return { ...this.#start, resume };
  }

  #receiveFinal({ channel, segment, end }) {
    for (const [key, each] of this.#pending)
      if (each.channel === channel && each.segment <= segment) this.#pending.delete(key);
    this.#covered[channel] = Math.max(this.#covered[channel] ?? 0, end);
    this.#cuts = this.#cuts.filter((cut) => cut.channel !== channel || cut.at >= end);
    this.#nextSegment = Math.max(this.#nextSegment, segment + 1);
    this.#dropCovered();
  }

  #receiveFlushed() {
    // Answers come in the order of the requests.
    const sent = this.#controls.slice(0, this.#nextControl);
    const index = sent.findIndex((each) => each.message.type === "flush");
    if (index < 0) return;
    this.#controls.splice(index, 1);
    this.#nextControl -= 1;
  }

  /** Return from where on a channel must be transcribed again. */
  #place(channel) {
    const covered = this.#covered[channel];
    if (this.#cuts.some((cut) => cut.channel === channel && cut.at === covered))
      return { covered, speaking: true };
    const waiting = [...this.#pending.values()].filter((each) => each.channel === channel);
    const silentUntil = waiting.length
      ? Math.min(...waiting.map((each) => each.at)) - PRE_ROLL
      : this.#acked - QUIET;
    const quiet = this.#origin + onGrid(Math.max(silentUntil - this.#origin, 0));
    return { covered: Math.max(covered, quiet), speaking: false };
  }

  /** Return from where on audio is needed to go on at `places`. */
  #leadOffset(places) {
    const covered = Math.min(...places.map((place) => place.covered)) - this.#origin;
    // Where the end of all audio is covered, the last step of the grid may be beyond it.
    const units = Math.min(
      Math.floor(Math.max(covered - LEAD, 0) / GRID),
      Math.floor(this.#end / this.#unitBytes),
    );
    return Math.max(this.#base, units * this.#unitBytes);
  }

  #dropCovered() {
    if (!this.canResume) return;
    const places = this.#covered.map((_, channel) => this.#place(channel));
    const sent = Math.floor(this.#cursor / this.#unitBytes) * this.#unitBytes;
    this.#drop(Math.min(this.#leadOffset(places), sent));
  }

  /** Forget everything before `offset`. */
  #drop(offset) {
    if (offset > this.#base) {
      this.#base = offset;
      const kept = this.#pieces.findIndex((each) => each.offset + each.bytes.length > offset);
      this.#pieces.splice(0, kept < 0 ? this.#pieces.length : kept);
    }
    // A sent `configure` before that place becomes part of how the stream is opened again.
    while (this.#nextControl && this.#controls.length) {
      const { offset: at, message } = this.#controls[0];
      if (at > offset || message.type !== "configure") break;
      const changes = Object.entries(message).filter(([k, v]) => k !== "type" && v !== null);
      this.#start = { ...this.#start, ...Object.fromEntries(changes) };
      this.#controls.shift();
      this.#nextControl -= 1;
    }
  }

  #read(from, to) {
    const result = new Uint8Array(Math.max(to - from, 0));
    if (!result.length) return result;
    let low = 0;
    for (let high = this.#pieces.length - 1; low < high; ) {
      const middle = (low + high + 1) >> 1;
      if (this.#pieces[middle].offset <= from) low = middle;
      else high = middle - 1;
    }
    for (let at = from; at < to; low += 1) {
      const { offset, bytes } = this.#pieces[low];
      const part = bytes.subarray(at - offset, to - offset);
      result.set(part, at - from);
      at += part.length;
    }
    return result;
  }
}

const onGrid = (samples) => Math.floor(samples / GRID) * GRID;
