/** Shows captions: finals as a list that only grows, what is being said below it. */

import { clock } from "./captions.js";

/** Confidence under which a word is marked. */
const UNSURE = 0.5;

export class CaptionView {
  #box;
  #finals;
  #running;
  #shown = [];

  /**
   * @param {HTMLElement} box scrolls
   * @param {HTMLElement} finals a live region: only additions are read out
   * @param {HTMLElement} running rewritten all the time
   */
  constructor(box, finals, running) {
    this.#box = box;
    this.#finals = finals;
    this.#running = running;
  }

  /** Show `captions`; `again` draws all of it anew. */
  show(captions, withTimes, again = false) {
    const isAtEnd = this.#box.scrollHeight - this.#box.scrollTop - this.#box.clientHeight < 40;
    const finals = captions.segments.filter((each) => each.isFinal);
    if (again) {
      this.#finals.replaceChildren();
      this.#shown = [];
    }
    for (const segment of finals) {
      if (this.#shown.includes(segment)) continue;
      this.#shown.push(segment);
      this.#finals.append(finalRow(segment, withTimes));
    }
    this.#running.replaceChildren(...captions.segments.filter((e) => !e.isFinal).flatMap(runningRow));
    if (isAtEnd) this.#box.scrollTop = this.#box.scrollHeight;
  }
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function finalRow(segment, withTimes) {
  const row = element("li");
  const text = element("span");
  if (segment.words) text.append(...segment.words.flatMap((word) => wordNodes(word, withTimes)));
  else text.textContent = segment.stable;
  row.append(element("time", "", clock(segment.start)), text);
  return row;
}

function wordNodes(word, withTimes) {
  const isUnsure = word.confidence < UNSURE;
  const made = element(withTimes ? "ruby" : "span", isUnsure ? "unsure" : "", word.text.trim());
  made.title = `${clock(word.start)} to ${clock(word.end)}, confidence ${word.confidence.toFixed(2)}`;
  if (withTimes) made.append(element("rt", "", clock(word.start)));
  return [made, " "];
}

function runningRow(segment) {
  const text = element("span");
  const gap = segment.stable && /^\s/.test(segment.tentative) ? " " : "";
  text.append(
    element("span", "stable", segment.stable.trimStart()),
    gap,
    element("span", "tentative", segment.tentative.trimStart()),
  );
  return [element("time", "", clock(segment.start)), text];
}
