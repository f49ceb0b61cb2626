// The chat beside a tile: what was said of the stream, and a line to ask something.

import {call, make} from "./page.link.js";

let able = false;

/** Whether the server has a language model, `name`; without one there is no chat. */
export function speaks(name) {
  able = Boolean(name);
  for (const part of document.querySelectorAll(".said, .ask")) part.hidden = !able;
}

/** The elements of a tile's chat. */
export function chat(stream) {
  const said = make("ol", {className: "said", hidden: !able});
  said.setAttribute("aria-live", "polite");
  const text = make("input", {type: "text", required: true, maxLength: 500, placeholder: "Ask …"});
  text.setAttribute("aria-label", `ask about ${stream}`);
  const button = make("button", {textContent: "Ask"});
  const form = make("form", {className: "ask", hidden: !able}, text, button);
  form.onsubmit = async event => {
    event.preventDefault();
    const line = make("li", {className: "answer"}, make("q", {textContent: text.value}), " …");
    said.append(line);
    said.scrollTop = said.scrollHeight;
    const question = text.value;
    text.value = "";
    button.disabled = true;
    try {
      const reply = await call("POST", `streams/${encodeURIComponent(stream)}/ask`, {text: question});
      fill(line, reply);
    } catch (error) {
      line.className = "error";
      line.textContent = error.message;
    }
    line.dataset.own = "";
    button.disabled = false;
    said.scrollTop = said.scrollHeight;
  };
  return [said, form];
}

function fill(line, one) {
  const parts = one.question ? [make("q", {textContent: one.question}), " "] : [];
  line.className = one.type;
  line.title = one.supported === false ? "not all of this was seen" : "";
  line.replaceChildren(...parts, one.text, one.supported === false ? " (?)" : "");
}

/** What the server tells of a stream's talk; `lines` are the newest, each with its number. */
export function tell(tile, lines) {
  const said = tile.querySelector(".said");
  said.hidden = tile.querySelector(".ask").hidden = !able || lines == null;  // not of sound
  if (lines == null) return;
  const after = Number(said.dataset.last ?? 0);
  const fresh = lines.filter(one => one.number > after);
  if (!fresh.length) return;
  for (const own of said.querySelectorAll("[data-own]")) own.remove();  // the server has them too
  for (const one of fresh) {
    const line = make("li");
    fill(line, one);
    said.append(line);
  }
  while (said.children.length > 50) said.firstChild.remove();
  said.dataset.last = fresh.at(-1).number;
  said.scrollTop = said.scrollHeight;
}
