// Live tiles: the picture that the model saw, its boxes, and its scores.

import {$, keyed, make} from "./page.link.js";
import {chat, tell} from "./page.talk.js";

const tiles = new Map();  // name -> element
const visible = new Set();
const sight = new IntersectionObserver(entries => {
  for (const {target, isIntersecting} of entries) {
    if (isIntersecting) visible.add(target.dataset.name); else visible.delete(target.dataset.name);
  }
});

function create(stream) {
  const canvas = make("canvas", {width: 320, height: 240});
  const zoom = make("button", {type: "button", title: "larger or smaller"}, canvas);
  const dot = make("span", {className: "dot", textContent: "●"});
  const tile = make("article", {className: "tile"}, zoom,
    make("p", {}, dot, make("span", {className: "name"}), make("span", {className: "ms"})),
    make("p", {className: "caption"}, make("span"), make("span", {className: "maybe"})),
    make("ul"), ...chat(stream.name));
  tile.dataset.name = stream.name;
  canvas.setAttribute("aria-label", `picture of ${stream.name}`);
  zoom.onclick = () => tile.classList.toggle("large");
  tiles.set(stream.name, tile);
  sight.observe(tile);
  return tile;
}

/** One tile per stream; `streams` as in the server's state. */
export function place(streams) {
  const live = streams.filter(stream => !stream.ended);
  keyed($("tiles"), live, stream => stream.name, create, (tile, stream) => {
    tile.querySelector(".name").textContent = stream.name;
    tile.querySelector(".name").title = stream.source;
    const dot = tile.querySelector(".dot");
    dot.dataset.state = shade(stream);
    dot.title = stream.state;
    tell(tile, stream.said);
    if (stream.state !== "live") tile.querySelector(".ms").textContent = stream.state;
    const caption = tile.querySelector(".caption"), said = stream.caption;
    caption.hidden = said == null;
    tile.querySelector("button").hidden = said != null;  // sound has no picture
    if (said != null) {
      caption.firstChild.textContent = said.text + " ";
      caption.lastChild.textContent = said.maybe;
    }
  });
  for (const name of [...tiles.keys()]) {
    if (!live.some(stream => stream.name === name)) {
      sight.unobserve(tiles.get(name));
      tiles.delete(name);
      visible.delete(name);
    }
  }
  $("tiles").className = ["", "one", "few", "few"][live.length] ?? "";
  $("none").hidden = live.length > 0;
}

/** Which colour a state has. */
export function shade(stream) {
  if (stream.ended) return stream.error ? "failed" : "ended";
  return ["live", "paused"].includes(stream.state) ? stream.state : "wait";
}

/** Names of the streams whose pictures are seen, at most as many as the server gives. */
export const wanted = () => [...visible].slice(0, 64);

/** Paints one answer. */
export async function paint(answer, jpeg) {
  const tile = tiles.get(answer.stream);
  if (!tile) return;
  const picture = await createImageBitmap(jpeg);
  const canvas = tile.querySelector("canvas"), pen = canvas.getContext("2d");
  const width = Math.round(canvas.clientWidth * devicePixelRatio) || 320;
  const height = Math.round(width / answer.aspect);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, 0, 0, width, height);
  picture.close();
  const found = answer.objects?.length ? answer.objects : answer.persons ?? [];
  for (const one of found) box(pen, one, width, height);
  tile.querySelector(".ms").textContent = `${answer.latency_ms.toFixed(0)} ms`;
  scores(tile, answer);
}

function box(pen, person, width, height) {
  const [x1, y1, x2, y2] = person.box.map((v, k) => v * (k % 2 ? height : width));
  const unit = devicePixelRatio;
  pen.lineWidth = 2 * unit;
  pen.strokeStyle = "#36e07c";
  pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  const best = Object.entries(person.classes ?? {})[0];
  const name = [person.label, person.id].filter((part) => part != null).join(" ");
  const text = best?.[1] != null
    ? `${best[0]} ${best[1].toFixed(2)}` : `${name} ${person.score.toFixed(2)}`.trim();
  pen.font = `${12 * unit}px system-ui, sans-serif`;
  const wide = pen.measureText(text).width + 8 * unit, high = 16 * unit;
  const x = Math.max(0, Math.min(x1, width - wide)), y = y1 >= high ? y1 - high : y1;
  pen.fillStyle = "rgb(12 60 32 / .8)";
  pen.fillRect(x, y, wide, high);
  pen.fillStyle = "#fff";
  pen.fillText(text, x + 4 * unit, y + 12 * unit);
}

function scores(tile, answer) {
  const own = Object.entries(answer.scores ?? {});
  const rows = [...own, ...Object.entries(answer.classes ?? {})].slice(0, 3);
  if (answer.error) rows.splice(0, 3, [answer.error, null]);
  tile.classList.toggle("event", own.some(([, score]) => score >= 0.5) || answer.event === true);
  tile.querySelector("ul").replaceChildren(...rows.map(([name, score]) => make("li", {},
    make("span", {textContent: name, title: name}),
    make("meter", {min: 0, max: 1, value: score ?? 0}),
    make("span", {textContent: score == null ? "–" : score.toFixed(2)}))));
}
