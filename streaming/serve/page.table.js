// The streams table: pause, go on, remove, add.

import {$, call, keyed, make} from "./page.link.js";
import {shade} from "./page.tiles.js";

const COLUMNS = ["name", "state", "source", "fps", "completed", "dropped", "waiting", "p50", "p99"];

function say(text, error = false) {
  $("added").textContent = text;
  $("added").className = error ? "error" : "quiet";
}

async function act(button, method, name, what = "") {
  button.disabled = true;
  try {
    await call(method, `streams/${encodeURIComponent(name)}${what}`);
    say("");
  } catch (error) {
    say(`${name}: ${error.message}`, true);
  }
  button.disabled = false;
}

function create(stream) {
  const row = make("tr"), {name} = stream;
  for (const column of COLUMNS) row.insertCell().className = column === "source" ? "source" : "n";
  const pause = make("button", {type: "button", className: "pause"});
  pause.onclick = () => act(pause, "POST", name, pause.textContent === "Pause" ? "/pause" : "/resume");
  const remove = make("button", {type: "button", className: "remove", textContent: "Remove"});
  remove.onclick = () => {
    if (confirm(`Remove ${name}? What it has seen is forgotten.`)) act(remove, "DELETE", name);
  };
  const cell = row.insertCell();
  cell.className = "buttons";
  cell.append(pause, " ", remove);
  return row;
}

function update(row, stream) {
  const whole = value => value == null ? "–" : value.toFixed(value < 10 ? 1 : 0);
  const texts = {
    name: stream.name, state: stream.error ? `${stream.state}: ${stream.error}` : stream.state,
    source: stream.source, fps: `${stream.in.toFixed(1)} / ${stream.out.toFixed(1)}`,
    completed: stream.completed, dropped: stream.dropped, waiting: stream.waiting,
    p50: whole(stream.latency.p50), p99: whole(stream.latency.p99),
  };
  COLUMNS.forEach((column, k) => { row.cells[k].textContent = texts[column]; });
  row.cells[1].dataset.state = shade(stream);
  row.cells[2].title = stream.source;
  const pause = row.querySelector(".pause");
  pause.textContent = stream.paused ? "Go on" : "Pause";
  pause.hidden = stream.ended;
}

export function table(streams) {
  keyed($("streams").tBodies[0], streams, stream => stream.name, create, update);
}

$("add").onsubmit = async event => {
  event.preventDefault();
  const button = $("add").querySelector("button"), url = $("url").value;
  const body = {url, policy: $("policy").value};
  if ($("name").value) body.name = $("name").value;
  if ($("rate").value) body.fps = Number($("rate").value);
  button.disabled = true;
  say(`opening ${url} ...`);
  try {
    const added = await call("POST", "streams", body);
    say(`${added.name} is there`);
    $("url").value = $("name").value = "";
  } catch (error) {
    say(error.message, true);
  }
  button.disabled = false;
};
