/**
 * Captions of a session as an overlay: `/overlay?session=ID_OR_NAME&lines=2#key=KEY`.
 *
 * It may be opened before the session is there, and stays for the next one of the same name. The
 * key stands behind `#`, which browsers do not send.
 */

import { Captions } from "./captions.js";
import { socketUrl, subprotocols } from "./client.js";
import { decode } from "./protocol.js";

const RETRY_MS = 2000;
const query = new URLSearchParams(location.search);
const session = query.get("session");
const lines = Math.min(6, Math.max(1, Number(query.get("lines")) || 2));
const key = new URLSearchParams(location.hash.slice(1)).get("key") ?? query.get("api_key");

const note = document.querySelector("#note");
let shown = "";

function show(captions) {
  const rows = captions.segments.slice(-lines).map((segment) => {
    const row = document.createElement("div");
    const box = document.createElement("span");
    const tentative = document.createElement("em");
    tentative.textContent = segment.stable ? segment.tentative : segment.tentative.trimStart();
    box.append(segment.stable.trimStart(), tentative);
    row.append(box);
    return row;
  });
  document.querySelector("#lines").replaceChildren(...rows);
}

function watch() {
  const path = `/v1/sessions/${encodeURIComponent(session)}/watch`;
  const socket = new WebSocket(socketUrl(path), subprotocols(key));
  let captions = new Captions();
  socket.addEventListener("open", () => (note.textContent = ""));
  socket.addEventListener("message", (event) => {
    const message = decode("server", event.data);
    if (message.type === "ready") {
      if (shown === message.session) return;
      shown = message.session;
      captions = new Captions();
    }
    if (captions.take(message)) show(captions);
  });
  socket.addEventListener("close", (event) => {
    captions.breakOff();
    if (event.code === 1006) note.textContent = `waiting for session “${session}” …`;
    setTimeout(watch, RETRY_MS);
  });
}

if (session) watch();
else note.textContent = "Put the session into the address: /overlay?session=NAME";
