/** The caption page: wires controls, a source, a stream and what is shown together. */

import { CanvasView } from "./canvas.js";
import { Captions, Stopwatch } from "./captions.js";
import { RECONNECTED, StreamError, connect } from "./client.js";
import { CLOCK_RATE } from "./protocol.js";
import { openFile, openMicrophone } from "./sources.js";
import { CaptionView } from "./view.js";
import { call } from "./webrtc.js";

const $ = (id) => document.getElementById(id);
const form = $("controls");
const captions = new Captions();
const view = new CaptionView($("captions"), $("finals"), $("running"));
const canvas = new CanvasView($("canvas"), $("canvas-step"), $("canvas-at"));

/** What runs; null while nothing does. */
let run = null;
/** Name of the newest session, whose captions can be fetched. */
let session = null;
/** Whether that session is only the rest of a stream whose connection broke. */
let isRest = false;

// --- the small things ----------------------------------------------------------------------------

const THEMES = { system: "as the system", light: "light", dark: "dark" };

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
  $("theme").setAttribute("aria-label", `Colours: ${THEMES[theme]}`);
  $("theme").title = `Colours: ${THEMES[theme]}`;
}

$("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const now = localStorage.getItem("theme") ?? "system";
  setTheme(names[(names.indexOf(now) + 1) % names.length]);
});

const chosen = (name) => form.elements[name].value;
const key = () => $("key").value.trim();
const authorization = () => (key() ? { Authorization: `Bearer ${key()}` } : {});

function say(text) {
  $("status").textContent = text;
}

function complain(message, help = "") {
  const strong = document.createElement("strong");
  strong.textContent = message;
  $("problem").replaceChildren(strong, help);
  $("problem").hidden = !message;
}

/** Say what server this is, and fill the list of languages. */
async function greet() {
  const headers = { Accept: "application/json", ...authorization() };
  const response = await fetch("/", { headers }).catch(() => null);
  if (!response) {
    $("server").textContent = "the server does not answer";
    return;
  }
  if (response.status === 401) {
    $("server").textContent = "this server wants an API key";
    $("more").open = true;
    return;
  }
  const index = await response.json();
  $("server").textContent = `${index.model ?? "no model yet"} · ${index.status}`;
  const names = new Intl.DisplayNames(undefined, { type: "language" });
  const options = index.languages.map((code) => new Option(names.of(code), code));
  $("language").replaceChildren(new Option("Detect", ""), ...options);
}

// --- a run -----------------------------------------------------------------------------------------

async function start() {
  complain("");
  setRunning(true);
  run = { source: null, stream: null, stopwatch: new Stopwatch(), isStopping: false };
  const mine = run;
  try {
    say("Opening …");
    mine.source = await openSource();
    say("Connecting …");
    mine.stream = await openStream(mine);
    begin(mine.stream.session, false);
    watchLevel(mine);
    say(chosen("source") === "file" ? "Playing the file." : "Listening: speak.");
    await mine.source.play();
    mine.source.ended.then(stop);
    if (mine.isStopping) mine.stream.stop();
    for await (const message of mine.stream) take(message, mine);
    say("Done.");
  } catch (error) {
    await explain(error);
    say("Stopped.");
  } finally {
    await mine.source?.close();
    mine.stream?.close();
    captions.breakOff();
    view.show(captions, $("times").checked);
    setRunning(false);
    run = null;
  }
}

/** Take note of the session that the server now has. */
function begin(name, rest) {
  session = name;
  isRest = rest;
  showViewers(name);
}

/** End the audio; the last captions still come. */
function stop() {
  if (!run || run.isStopping) return;
  run.isStopping = true;
  say("Finishing …");
  $("start").disabled = true;
  run.stream?.stop();
}

async function openSource() {
  if (chosen("source") === "microphone") return openMicrophone();
  const [file] = $("file").files;
  if (!file) throw new StreamError("refused", "Choose a file first.");
  return openFile(file);
}

async function openStream(mine) {
  const wishes = {
    language: $("language").value || null,
    words: true,
    partial_interval_ms: 300,
    ...($("trace").checked && { trace: true }),
  };
  if (chosen("transport") === "webrtc") {
    const made = await call(mine.source.track(), { start: wishes, apiKey: key() });
    // When the first sample is heard there cannot be known here; this is about right.
    const began = performance.now();
    const tick = () => {
      const passed = performance.now() - began;
      mine.stopwatch.mark((passed * CLOCK_RATE) / 1000, performance.now());
      if (run === mine) setTimeout(tick, 50);
    };
    tick();
    return made;
  }
  const rate = mine.source.sampleRate;
  const stream = await connect("/v1/stream", {
    start: { ...wishes, sample_rate: rate },
    apiKey: key(),
  });
  let sent = 0;
  await mine.source.samples((piece) => {
    if (mine.isStopping) return;
    sent += piece.length;
    mine.stopwatch.mark((sent * CLOCK_RATE) / rate, performance.now());
    stream.send(piece);
  });
  return stream;
}

function take(message, mine) {
  const now = performance.now();
  switch (message.type) {
    case "partial":
      figure("lag", mine.stopwatch.since(message.end, now));
      break;
    case "speech_ended":
      mine.endedAt = message.at;
      break;
    case "final":
      figure("final-lag", mine.stopwatch.since(mine.endedAt ?? message.end, now));
      figure("decode", message.timings.decode_ms);
      $("steps").textContent = message.timings.steps;
      break;
    case "trace":
      canvas.show(message.canvases);
      break;
    case "notice":
      if (message.code === RECONNECTED) {
        begin(mine.stream.session, true);
        say("The connection broke; nothing was lost.");
      } else {
        say(message.message);
      }
      break;
    case "error":
      complain(message.message);
      break;
  }
  // Some of what is shown may be gone after a break.
  if (captions.take(message) || message.type === "notice")
    view.show(captions, $("times").checked);
  const isEmpty = !captions.segments.some((each) => each.isFinal);
  for (const button of [...document.querySelectorAll(".save"), $("clear")])
    button.disabled = isEmpty;
}

function figure(id, milliseconds) {
  $(id).textContent = milliseconds === null ? "–" : `${Math.max(0, Math.round(milliseconds))} ms`;
}

function watchLevel(mine) {
  const level = mine.source.meter();
  const draw = () => {
    if (run !== mine) return;
    $("level").value = level();
    requestAnimationFrame(draw);
  };
  draw();
}

function setRunning(isRunning) {
  $("start").textContent = isRunning ? "Stop" : "Start";
  $("start").toggleAttribute("data-running", isRunning);
  $("start").disabled = false;
  $("level").hidden = !isRunning;
  for (const each of form.querySelectorAll("fieldset, select, #file, #key"))
    each.disabled = isRunning;
  $("trace").disabled = isRunning;
}

function showViewers(name) {
  const path = `/v1/sessions/${name}`;
  const withKey = key() ? `?api_key=${encodeURIComponent(key())}` : "";
  $("overlay").href = `/overlay?session=${name}${key() ? `#key=${encodeURIComponent(key())}` : ""}`;
  $("events").href = `${path}/events${withKey}`;
  $("live-vtt").href = `${path}/captions.vtt${withKey}`;
  $("viewers").hidden = false;
}

async function explain(error) {
  if (error.code === "refused" && (await wantsKey())) {
    $("more").open = true;
    $("key").focus();
    complain("The server wants an API key.", "Enter it under “API key and viewers”.");
  } else if (error.code === "refused" && error.message !== "Choose a file first.") {
    const full = await fetch("/readyz").then((answer) => answer.json(), () => null);
    complain(error.message, full ? `It is ${full.status}, with ${full.sessions} of ${full.max_sessions} places taken.` : "It does not answer at all.");
  } else {
    complain(error.message, error.help ?? "");
  }
}

async function wantsKey() {
  const headers = { Accept: "application/json", ...authorization() };
  const response = await fetch("/", { headers }).catch(() => null);
  return response?.status === 401;
}

// --- downloads -------------------------------------------------------------------------------------

async function save(format) {
  let text;
  if (format !== "json" && isRest) {
    complain("The server has only the captions since the connection broke.", " JSON has them all.");
    return;
  }
  if (format === "json") {
    text = JSON.stringify(captions, null, 2);
  } else {
    const answer = await fetch(`/v1/sessions/${session}/captions.${format}`, {
      headers: authorization(),
    }).catch(() => null);
    if (!answer?.ok) {
      complain("The server has these captions no more.", "It keeps them for ten minutes. JSON is made here.");
      return;
    }
    text = await answer.text();
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = `captions.${format}`;
  link.click();
  URL.revokeObjectURL(link.href);
}

// --- wiring ----------------------------------------------------------------------------------------

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (run) stop();
  else start();
});
form.addEventListener("change", () => ($("file-field").hidden = chosen("source") !== "file"));
$("key").addEventListener("change", () => {
  sessionStorage.setItem("key", key());
  greet();
});
$("times").addEventListener("change", () => view.show(captions, $("times").checked, true));
$("clear").addEventListener("click", () => {
  captions.segments = captions.segments.filter((each) => !each.isFinal);
  view.show(captions, $("times").checked, true);
});
for (const button of document.querySelectorAll(".save"))
  button.addEventListener("click", () => save(button.dataset.format));

$("key").value = sessionStorage.getItem("key") ?? "";
setTheme(localStorage.getItem("theme") ?? "system");
$("file-field").hidden = chosen("source") !== "file";
if (!globalThis.isSecureContext) {
  form.elements.source.value = "file";
  form.elements.transport.value = "webrtc";
  $("file-field").hidden = false;
  complain(
    "This page was not opened over HTTPS, so the microphone is out of reach.",
    " Start the server with --tls-self-signed, or with --tls-cert and --tls-key, and open the page " +
      "with https://. A file works over WebRTC even so.",
  );
}
greet();
