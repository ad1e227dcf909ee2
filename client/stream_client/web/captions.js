/** Messages to captions: what is said so far, segment by segment. Pure: no page, no clock. */

import { RECONNECTED } from "./client.js";
import { CLOCK_RATE } from "./protocol.js";

/** The captions of one or of several sessions, one after another. */
export class Captions {
  /** Segments in order of their start; each has number, channel, start, end, isFinal, … */
  segments = [];
  #running = new Map();

  /**
   * Take a message.
   *
   * @returns {object | null} the segment that it changed
   */
  take(message) {
    switch (message.type) {
      case "partial":
        return this.#update(message, {
          stable: message.stable,
          tentative: message.tentative,
        });
      case "final": {
        const segment = this.#update(message, {
          stable: message.text,
          tentative: "",
          isFinal: true,
          words: message.words,
          confidence: message.confidence,
          language: message.language,
          timings: message.timings,
        });
        this.#running.delete(message.segment);
        if (!message.text.trim()) this.#remove(segment);
        return segment;
      }
      case "notice":
        // What ran when the connection broke comes again from its beginning.
        if (message.code === RECONNECTED) this.breakOff();
        return null;
      default:
        return null;
    }
  }

  /** Forget what was begun and not finished: the stream it belonged to is over. */
  breakOff() {
    for (const segment of this.#running.values()) this.#remove(segment);
    this.#running.clear();
  }

  /** The whole text. */
  get text() {
    return this.segments.map((each) => (each.stable + each.tentative).trim()).join(" ");
  }

  /** What a download holds. */
  toJSON() {
    return this.segments
      .filter((each) => each.isFinal)
      .map(({ number, channel, start, end, stable, words, confidence, language }) => ({
        segment: number,
        channel,
        start: start / CLOCK_RATE,
        end: end / CLOCK_RATE,
        text: stable,
        language,
        confidence,
        words:
          words?.map((word) => ({
            text: word.text,
            start: word.start / CLOCK_RATE,
            end: word.end / CLOCK_RATE,
            confidence: word.confidence,
          })) ?? null,
      }));
  }

  #update(message, fields) {
    let segment = this.#running.get(message.segment);
    if (!segment) {
      segment = { number: message.segment, channel: message.channel, isFinal: false, words: null };
      this.#running.set(message.segment, segment);
      this.segments.push(segment);
    }
    return Object.assign(segment, { start: message.start, end: message.end }, fields);
  }

  #remove(segment) {
    this.segments = this.segments.filter((each) => each !== segment);
  }
}

/** Remembers when which sample was recorded, to tell how late a text is. */
export class Stopwatch {
  #marks = [];

  /**
   * @param {number} position samples recorded so far, at 16 kHz
   * @param {number} now milliseconds
   */
  mark(position, now) {
    this.#marks.push([position, now]);
    if (this.#marks.length > 4000) this.#marks.splice(0, 2000);
  }

  /** Milliseconds since the sample at `position` was recorded; null where that is not known. */
  since(position, now) {
    const mark = this.#marks.find(([reached]) => reached >= position);
    if (!mark) return null;
    const [reached, then] = mark;
    return now - then + ((reached - position) * 1000) / CLOCK_RATE;
  }
}

/** Return samples as `m:ss.t`. */
export function clock(samples) {
  const tenths = Math.floor((samples * 10) / CLOCK_RATE);
  const seconds = Math.floor(tenths / 10);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}.${tenths % 10}`;
}
