// Tests of captions.js; argument: its path.
import assert from "node:assert/strict";

const { Captions, Stopwatch, clock } = await import(process.argv[2]);

const partial = (segment, stable, tentative) => ({
  type: "partial", segment, channel: 0, revision: 1, stable, tentative, start: 16000, end: 32000,
}); // prettier-ignore
const final = (segment, text) => ({
  type: "final", segment, channel: 0, revision: 2, text, start: 16000, end: 32000, language: "en",
  confidence: 0.5, words: [{ text, start: 16000, end: 24000, confidence: 0.5 }], timings: {},
}); // prettier-ignore

const captions = new Captions();
assert.equal(captions.take({ type: "ack", samples: 1 }), null);
captions.take(partial(0, "good", " boat"));
assert.equal(captions.text, "good boat");
assert.deepEqual(captions.toJSON(), []);
captions.take(final(0, "good morning"));
assert.equal(captions.text, "good morning");
captions.take(partial(1, "", "noise"));
captions.take(final(1, ""));
assert.equal(captions.segments.length, 1, "an empty final leaves nothing");
captions.take(partial(2, "broken", " off"));
captions.breakOff();
captions.take(final(0, "another session"));
assert.equal(captions.text, "good morning another session");
const [first] = captions.toJSON();
assert.deepEqual([first.start, first.end, first.words[0].end], [1, 2, 1.5]);

const watch = new Stopwatch();
assert.equal(watch.since(0, 5), null);
for (let each = 1; each < 10000; each += 1) watch.mark(each * 800, each * 50);
assert.equal(watch.since(9000 * 800, 9000 * 50 + 120), 120);
assert.equal(watch.since(9000 * 800 - 400, 9000 * 50 + 120), 145);
assert.equal(watch.since(1e9, 0), null);

assert.equal(clock(0), "0:00.0");
assert.equal(clock(16000 * 61.25), "1:01.2");
console.log("ok");
