// Event timeline, latency histogram, and the books of all frames.

import {$, make} from "./page.link.js";

const SPAN = 300;  // seconds of the timeline
const KINDS = {
  event: "event", anomaly: "anomaly", mark: "marked", label: "class", drop: "dropped",
  error: "error", refused: "refused", stream: "stream",
};
const items = new Map();  // id -> item, as the server last told it

function svg(tag, attributes = {}, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

const clock = seconds => new Date(1000 * seconds).toLocaleTimeString([], {hour12: false});
const count = number => Math.round(number).toLocaleString("en").replaceAll(",", "\u202f");

/** Takes changed items; those of an earlier server are forgotten with `fresh`. */
export function remember(events, fresh) {
  if (fresh) items.clear();
  for (const item of events) items.set(item.id, item);
  const excess = items.size - 400;
  if (excess > 0) for (const id of [...items.keys()].sort((a, b) => a - b).slice(0, excess)) items.delete(id);
}

function words(item) {
  const seconds = item.end - item.start;
  const parts = [item.text];
  if (item.peak != null) parts.push(item.peak.toFixed(2));
  if (item.kind === "drop") parts.push(`${count(item.count)} frames`);
  if (seconds >= 1) parts.push(`for ${seconds.toFixed(0)} s`);
  return parts.join(" · ");
}

/** A row per stream, time from left to right; below it the newest items in words. */
export function timeline(now, names) {
  const recent = [...items.values()].filter(item => item.end > now - SPAN);
  const rows = [...new Set([...names, ...recent.map(item => item.stream)])].slice(0, 24);
  const chart = $("timeline"), width = chart.clientWidth || 600, left = 90, high = 20;
  const height = rows.length * high + 22;
  const x = time => left + (width - left - 6) * Math.min(1, Math.max(0, 1 - (now - time) / SPAN));
  const parts = [];
  for (let minute = 0; minute <= 5; minute += 1) {
    const at = x(now - 60 * minute);
    parts.push(svg("line", {class: "grid", x1: at, x2: at, y1: 0, y2: height - 18}));
    parts.push(svg("text", {x: at, y: height - 4, "text-anchor": minute ? "middle" : "end"},
      minute ? `−${minute} min` : "now"));
  }
  rows.forEach((name, row) => {
    const short = name.length > 13 ? `${name.slice(0, 12)}…` : name;
    parts.push(svg("text", {x: 0, y: row * high + 14}, short));
  });
  // Short things last, so that a long span does not cover them.
  for (const item of recent.sort((a, b) => (b.end - b.start) - (a.end - a.start))) {
    const row = rows.indexOf(item.stream);
    if (row < 0) continue;
    const start = x(item.start), wide = Math.max(3, x(item.end) - start);
    const slim = item.kind === "label";
    const bar = svg("rect", {
      class: `k-${item.kind in KINDS ? item.kind : "stream"}`, x: start, width: wide, rx: 2,
      y: row * high + (slim ? 7 : 4), height: slim ? 7 : 13,
    });
    bar.append(svg("title", {}, `${item.stream}: ${words(item)}`));
    parts.push(bar);
  }
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  chart.setAttribute("height", height);
  chart.replaceChildren(...parts);
  legend(recent);
  list();
}

function legend(recent) {
  const kinds = Object.keys(KINDS).filter(kind => recent.some(item => item.kind === kind));
  $("legend").replaceChildren(...kinds.map(kind =>
    make("li", {}, make("i", {className: `k-${kind}`}), KINDS[kind])));
}

function list() {
  const newest = [...items.values()].sort((a, b) => b.id - a.id).slice(0, 40);
  const rows = newest.map(item => make("li", {},
    make("time", {textContent: clock(item.start)}),
    make("i", {className: `k-${item.kind in KINDS ? item.kind : "stream"}`, title: item.kind}),
    make("strong", {textContent: item.stream}),
    make("span", {textContent: words(item)})));
  $("events").replaceChildren(...(rows.length ? rows : [make("li", {className: "quiet"},
    make("span", {textContent: "none yet"}))]));
}

const milliseconds = value => value == null ? "–" : `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;

/** Bars of equal width, two to an octave; lines at the percentiles and the tightest budget. */
export function histogram(latency, budget) {
  for (const p of ["50", "95", "99"]) $(`lat${p}`).textContent = milliseconds(latency[`p${p}`]);
  $("p99").textContent = milliseconds(latency.p99);
  const {edges, counts} = latency, chart = $("histogram");
  const width = chart.clientWidth || 400, height = 150, floor = height - 18, most = Math.max(1, ...counts);
  const x = ms => width * Math.log2(Math.min(Math.max(ms, edges[0]), edges.at(-1)) / edges[0])
    / Math.log2(edges.at(-1) / edges[0]);
  const parts = counts.map((n, k) => {
    const high = n ? Math.max(2, (floor - 16) * n / most) : 0;
    const bar = svg("rect", {
      class: edges[k] >= budget ? "bar over" : "bar", x: x(edges[k]) + 1, y: floor - high,
      width: width / counts.length - 2, height: high,
    });
    bar.append(svg("title", {}, `${edges[k]} to ${edges[k + 1]} ms: ${count(n)} frames`));
    return bar;
  });
  parts.push(svg("line", {class: "grid", x1: 0, x2: width, y1: floor, y2: floor}));
  for (const ms of [1, 4, 16, 64, 256, 1024]) {
    parts.push(svg("text", {x: x(ms), y: height - 4, "text-anchor": ms === 1 ? "start" : "middle"},
      ms === 1 ? "1 ms" : ms < 1000 ? ms : "1 s"));
  }
  if (budget < edges.at(-1)) {
    parts.push(svg("line", {class: "limit", x1: x(budget), x2: x(budget), y1: 0, y2: floor}));
    const end = x(budget) > width - 70;
    parts.push(svg("text", {
      x: x(budget) + (end ? -4 : 4), y: 10, "text-anchor": end ? "end" : "start",
    }, `budget ${budget.toFixed(0)}`));
  }
  for (const p of ["p50", "p99"]) {
    if (latency[p] == null) continue;
    const at = x(latency[p]), end = at > width - 30;
    parts.push(svg("line", {class: "p", x1: at, x2: at, y1: 14, y2: floor}));
    parts.push(svg("text", {x: at + (end ? -3 : 3), y: 23, "text-anchor": end ? "end" : "start"}, p));
  }
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  chart.setAttribute("height", height);
  chart.replaceChildren(...parts);
}

/** received = completed + dropped + in flight; then the reasons, those before the engine too. */
export function books(total, before) {
  const dropped = Object.values(total.dropped).reduce((a, b) => a + b, 0);
  const line = {
    received: total.received, "= answered": total.completed, "+ dropped": dropped,
    "+ in flight": total.in_flight, late: total.late,
  };
  $("books").replaceChildren(...Object.entries(line).map(([name, value]) => make("div", {},
    make("dt", {textContent: name}), make("dd", {textContent: count(value)}))));
  const reasons = Object.entries({...total.dropped, ...before}).filter(([, n]) => n)
    .sort(([, a], [, b]) => b - a);
  const most = Math.max(1, ...reasons.map(([, n]) => n));
  const rows = reasons.map(([reason, n]) => make("tr", {},
    make("td", {textContent: reason}), make("td", {}, make("progress", {max: most, value: n})),
    make("td", {className: "n", textContent: count(n)})));
  $("drops").tBodies[0].replaceChildren(...(rows.length ? rows
    : [make("tr", {}, make("td", {className: "quiet", textContent: "none"}))]));
}
