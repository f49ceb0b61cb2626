// The page: what comes over the link goes to its parts.

import {books, histogram, remember, timeline} from "./page.charts.js";
import {$, Link, token} from "./page.link.js";
import {able} from "./page.publish.js";
import {table} from "./page.table.js";
import {speaks} from "./page.talk.js";
import {paint, place, wanted} from "./page.tiles.js";

let fresh = false;  // the next events are of a new connection

function notice(text, error = false) {
  $("notice").hidden = !text;
  $("notice").textContent = text;
  $("notice").className = error ? "error" : "";
  document.body.classList.toggle("away", Boolean(text));
}

function status(text) {
  $("status").textContent = text;
  $("status").dataset.state = text;
}

function show(state) {
  const {streams, latency} = state;
  status(state.status);
  $("used").textContent = `${state.used} / ${state.slots}`;
  $("load").textContent = `${Math.round(100 * state.load)} %`;
  document.body.classList.toggle("away", state.status === "failed");
  if (state.status === "failed") notice("The engine has failed; start the server again.", true);
  if (state.status === "draining") notice("The server is shutting down.");
  place(streams);
  table(streams);
  histogram(latency, Math.min(Infinity, ...streams.map(stream => stream.budget_ms)));
  books(state.total, state.before);
  timeline(state.now, streams.filter(stream => !stream.ended).map(stream => stream.name));
}

const link = new Link({
  hello(message) {
    const [height, width] = message.size;
    $("model").textContent = `${message.model} · sees ${width} × ${height}`;
    $("model").title = message.summary;
    notice("");
    able(message.webrtc, message.webrtc_needs);
    speaks(message.language);
    fresh = true;
  },
  async message(header, jpegs) {
    remember(header.events, fresh);
    fresh = false;
    if (header.state) show(header.state);
    await Promise.all(header.tiles.map((tile, k) => paint(tile, jpegs[k]).catch(console.error)));
  },
  refused() {
    status("locked");
    $("refused").textContent = token.get() ? "That is not one of them." : "";
    if (!$("door").open) $("door").showModal();
  },
  away(seconds, text) {
    status("away");
    const why = text ?? "The server does not answer. What is shown is what it last said.";
    notice(`${why} Trying again in ${seconds.toFixed(seconds < 1 ? 1 : 0)} s ...`);
  },
}, wanted);

$("key").onsubmit = () => {
  token.set($("token").value);
  $("token").value = "";
  link.connect();
};

link.connect();
