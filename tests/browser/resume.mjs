// Does to the browser's log of what is sent what a story tells; arguments: folder, file.
import { readFileSync } from "node:fs";

const [folder, file] = process.argv.slice(2);
const { SendLog } = await import(`${folder}/resume.js`);
const { decode } = await import(`${folder}/protocol.js`);

function adler32(bytes) {
  let [a, b] = [1, 0];
  for (const byte of bytes) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  return b * 65536 + a;
}

const told = JSON.parse(readFileSync(file, "utf8"));
const log = new SendLog(decode("client", JSON.stringify(told.start)), {
  capacitySeconds: told.seconds,
});
let appended = 0;
const does = {
  append: (count) => {
    log.appendAudio(Uint8Array.from({ length: count }, (_, i) => (appended + i) % 251));
    appended += count;
  },
  control: (message) => log.appendControl(message),
  hear: (message) => log.receive(decode("server", JSON.stringify(message))),
  take: (most) => {
    const item = log.take(most);
    return item instanceof Uint8Array ? [item.length, adler32(item)] : item;
  },
  rewind: () => (log.canResume ? log.rewind("t") : null),
};
const answers = told.calls.map(([kind, ...values]) => {
  const answer = does[kind](...values) ?? null;
  return [answer, log.keptBytes, log.unsentBytes, log.isFull];
});
console.log(JSON.stringify(answers));
