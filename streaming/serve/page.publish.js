// Publishes this browser's camera, over WebRTC, or as JPEG pictures over the WebSocket /ws.

import {$, address, call, make, token} from "./page.link.js";

const HEADER = 24, JPEG = 1;  // see wire.py
let current = null;  // {stop()} while something is published
let media = null;

function say(text, error = false) {
  $("published").textContent = text;
  $("published").className = error ? "error" : "quiet";
}

/** Says what the server can do, or what it lacks for it; called with its greeting. */
export function able(webrtc, needs) {
  const option = $("over").querySelector("[value=webrtc]");
  option.disabled = !webrtc;
  if (!webrtc) {
    $("over").value = "socket";
    if (!current) say(`${needs}, where the server runs. Until then pictures are sent over the WebSocket.`);
  }
}

/** A moving square, for who has no camera. */
function pattern(fps) {
  const canvas = make("canvas", {width: 640, height: 480}), pen = canvas.getContext("2d");
  const timer = setInterval(() => {
    const t = performance.now() / 1000;
    pen.fillStyle = "#345";
    pen.fillRect(0, 0, 640, 480);
    pen.fillStyle = "#fc6";
    pen.fillRect(280 + 200 * Math.sin(t), 200 + 100 * Math.cos(1.3 * t), 80, 80);
  }, 1000 / fps);
  const stream = canvas.captureStream(fps);
  stream.getVideoTracks()[0].addEventListener("ended", () => clearInterval(timer));
  return {stream, end: () => clearInterval(timer)};
}

async function capture(fps) {
  if ($("from").value === "pattern") return pattern(fps);
  if (!navigator.mediaDevices) {
    throw new Error("a browser gives its camera only to pages of localhost or https");
  }
  const wish = {width: {ideal: 640}, height: {ideal: 480}, frameRate: {ideal: fps}};
  return {stream: await navigator.mediaDevices.getUserMedia({video: wish}), end() {}};
}

const gathered = peer => new Promise(done => {
  const check = () => { if (peer.iceGatheringState === "complete") done(); };
  peer.addEventListener("icegatheringstatechange", check);
  setTimeout(done, 3000);  // an interface that does not answer must not hold up the others
  check();
});

/** Publishes over WebRTC; resolves once the connection stands. */
async function webrtc(stream, fps) {
  const peer = new RTCPeerConnection();
  let name = null;
  const self = {
    stop() {
      self.stopped = true;
      peer.close();
      if (name) call("DELETE", `streams/${encodeURIComponent(name)}`).catch(() => {});
    },
  };
  const connected = new Promise((done, fail) => {
    peer.onconnectionstatechange = () => {
      if (peer.connectionState === "connected") done();
      if (peer.connectionState === "failed") fail(new Error("no way through to the server"));
    };
    setTimeout(fail, 15000, new Error("no way through to the server in 15 s"));
  });
  connected.catch(() => {});
  try {
    for (const track of stream.getVideoTracks()) peer.addTrack(track, stream);
    await peer.setLocalDescription();
    await gathered(peer);
    const answer = await call("POST", "offer", {sdp: peer.localDescription.sdp, fps, budget_ms: 1000});
    name = answer.session;
    await peer.setRemoteDescription({type: "answer", sdp: answer.sdp});
    await connected;
  } catch (error) {
    self.stop();
    throw error;
  }
  peer.onconnectionstatechange = () => {
    if (!self.stopped && ["failed", "closed"].includes(peer.connectionState)) {
      halt("the connection has ended", true);
    }
  };
  say(`publishing as ${name}, over WebRTC`);
  return self;
}

/** Publishes over the WebSocket, and goes on where it was when the connection comes back. */
function socket(stream, fps, why = "") {
  const video = make("video", {muted: true, playsInline: true, srcObject: stream});
  const canvas = make("canvas", {width: 640, height: 480}), pen = canvas.getContext("2d");
  let line = null, session = null, next = 0, limit = 0, busy = false, sent = 0, pause = 200;
  const self = {stop};

  function connect() {
    line = new WebSocket(address("ws"));
    line.onopen = () => line.send(JSON.stringify({auth: token.get(), ...session
      ? {type: "resume", token: session.token, after: session.seq}
      : {type: "open", fps, policy: "latest", budget_ms: 1000}}));
    line.onmessage = event => heard(JSON.parse(event.data));
    line.onclose = () => {
      if (self.stopped) return;
      if (!session) return halt();  // refused: the reason is shown already
      say("connection lost; trying again ...", true);
      setTimeout(() => { if (!self.stopped) connect(); }, pause);
      pause = Math.min(2 * pause, 4000);
    };
  }

  function heard(message) {
    if ("limit" in message) limit = Math.max(limit, message.limit);
    if (message.type === "opened") {
      session = {token: message.token, seq: session ? Math.min(session.seq, message.last) : 0};
      ({next, limit} = message);
      pause = 200;
      say(`${why}publishing as ${message.session}, as JPEG pictures over the WebSocket`);
    } else if (message.type === "result") {
      session.seq = message.seq;
    } else if (message.type === "error") {
      say(message.message, true);
      if (message.code === "unknown_token") session = null;
    } else if (message.type === "end" && !["draining", "moved"].includes(message.reason)) {
      session = null;
      halt(`ended: ${message.reason}`);
    }
  }

  function tick() {
    // No credit, no connection or a picture on its way: this frame is not sent, the next may be.
    if (busy || line?.readyState !== 1 || !session || next >= limit) return;
    if (line.bufferedAmount > 1 << 20 || !video.videoWidth) return;
    busy = true;
    pen.drawImage(video, 0, 0, canvas.width, canvas.height);
    canvas.toBlob(async blob => {
      try {
        const picture = await blob.arrayBuffer();
        if (line?.readyState !== 1 || next >= limit) return;
        const message = new Uint8Array(HEADER + picture.byteLength), head = new DataView(message.buffer);
        head.setUint8(0, JPEG);
        head.setBigUint64(8, BigInt(next));
        head.setFloat64(16, Date.now() / 1000);
        message.set(new Uint8Array(picture), HEADER);
        line.send(message);
        next += 1;
        sent += 1;
      } finally { busy = false; }
    }, "image/jpeg", 0.8);
  }

  function stop() {
    self.stopped = true;
    clearInterval(timer);
    if (line?.readyState === 1) line.send(JSON.stringify({type: "close"}));
    line?.close();
  }

  video.play();
  const timer = setInterval(tick, 1000 / fps);
  connect();
  return self;
}

function halt(text, error) {
  current?.stop();
  media?.stream.getTracks().forEach(track => track.stop());
  media?.end();
  current = media = null;
  $("start").disabled = false;
  $("stop").disabled = true;
  if (text) say(text, error);
}

$("publish").onsubmit = async event => {
  event.preventDefault();
  const fps = Number($("fps").value);
  $("start").disabled = true;
  say("starting ...");
  try {
    media = await capture(fps);
    if ($("over").value === "webrtc") {
      current = await webrtc(media.stream, fps).catch(error => {
        if (!/no way through/.test(error.message)) throw error;
        // A tunnel or a firewall lets no UDP pass.
        return socket(media.stream, fps, "WebRTC finds no way through to the server; ");
      });
    } else {
      current = socket(media.stream, fps);
    }
    $("stop").disabled = false;
  } catch (error) {
    halt(`not published: ${error.message}`, true);
  }
};

$("stop").onclick = () => halt("stopped");
