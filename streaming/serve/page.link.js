// The page's line to the server: the token, REST calls, and the WebSocket that it looks through.

export const $ = id => document.getElementById(id);

/** An element with properties and children; text only ever becomes text. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** The children of `parent` become one element per item, kept from call to call by `key`. */
export function keyed(parent, items, key, create, update) {
  const old = parent.elements ??= new Map();
  const now = new Map();
  items.forEach((item, place) => {
    const name = key(item);
    const element = old.get(name) ?? create(item);
    old.delete(name);
    now.set(name, element);
    update(element, item);
    if (parent.children[place] !== element) parent.insertBefore(element, parent.children[place] ?? null);
  });
  for (const element of old.values()) element.remove();
  parent.elements = now;
}

export const token = {
  get: () => sessionStorage.getItem("token") ?? "",
  set: value => sessionStorage.setItem("token", value),
};

export function address(path) {
  const url = new URL(path, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  return url;
}

/** A REST call. Throws an Error with the server's own words. */
export async function call(method, path, body) {
  const headers = {};
  if (token.get()) {  // a header holds bytes: the token's UTF-8
    const bytes = new TextEncoder().encode(token.get());
    headers.Authorization = `Bearer ${String.fromCharCode(...bytes)}`;
  }
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {method, headers, body: body && JSON.stringify(body)});
  } catch {
    throw new Error("the server does not answer");
  }
  const reply = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(reply.error?.message ?? `the server answers ${answer.status}`);
  return reply;
}

/**
 * Asks for a message, hands it on, and asks again when it has been painted. While the page is
 * hidden it does not ask.
 *
 * handlers: hello(message), message(header, jpegs) -> Promise, refused(), away(seconds, text).
 */
export class Link {
  constructor(handlers, wanted) {
    this.handlers = handlers;
    this.wanted = wanted;  // () => names of the streams whose tiles are to come
    this.pause = 500;
    document.addEventListener("visibilitychange", () => this.ask());
  }

  connect() {
    clearTimeout(this.timer);
    this.after = this.rev = 0;
    this.waiting = false;
    this.open = false;
    let refused = null;
    const socket = this.socket = new WebSocket(address("watch"));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(JSON.stringify({type: "watch", auth: token.get()}));
    socket.onmessage = async event => {
      if (typeof event.data !== "string") return this.heard(event.data);
      const message = JSON.parse(event.data);
      if (message.type === "watching") {
        this.open = true;
        this.pause = 500;
        this.handlers.hello(message);
        this.ask();
      } else if (message.type === "error") {
        refused = message;
      }
    };
    socket.onclose = () => {
      if (socket !== this.socket) return;
      this.open = false;
      if (refused?.code === "unauthorised") return this.handlers.refused();
      this.handlers.away(this.pause / 1000, refused?.message);
      this.timer = setTimeout(() => this.connect(), this.pause);
      this.pause = Math.min(2 * this.pause, 8000);
    };
  }

  ask() {
    if (document.hidden || this.waiting || !this.open || this.socket.readyState !== 1) return;
    this.waiting = true;
    this.socket.send(JSON.stringify({
      type: "next", after: this.after, rev: this.rev, streams: this.wanted(),
    }));
  }

  async heard(data) {
    const length = new DataView(data).getUint32(0);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    let at = 4 + length;
    const jpegs = header.tiles.map(tile => {
      const bytes = new Uint8Array(data, at, tile.bytes);
      at += tile.bytes;
      return new Blob([bytes], {type: "image/jpeg"});
    });
    this.after = header.after;
    this.rev = header.rev;
    try {
      await this.handlers.message(header, jpegs);
    } finally {
      this.waiting = false;
      this.ask();
    }
  }
}
