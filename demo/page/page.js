"use strict";

const $ = id => document.getElementById(id);
const percent = p => (p >= .9995 ? "> 99.9" : (100 * p).toFixed(1)) + "\u00a0%";

// What is drawn: strokes of points in [0, 1], or a photo. Only the last stroke grows, so undo is a list of drawings.

const LARGE = 1024;  // the long side of a photo that is sent, in pixels
let drawings = [{strokes: JSON.parse(sessionStorage.getItem("strokes") ?? "[]")}], shown = 0;
let version = 0;  // a new one begins where the answer to the one before is no longer of use
let network = null, answer = null, trouble = "", chosen = "";  // chosen: "layer/unit", whose sum is explained

const drawing = () => drawings[shown];
const isEmpty = () => !drawing().photo && !drawing().strokes.length;
const save = () => sessionStorage.setItem("strokes", JSON.stringify(drawing().strokes));  // over a reload
const path = ({points}) => `M${points.join("L")}`;  // as SVG and Path2D have it

function add(next) {  // in the place of what was undone; returns its number
  drawings.splice(++shown, Infinity, next);
  return shown;
}

function show(n) {
  shown = n;
  version++;
  answer = null;
  chosen = "";
  if (connected) trouble = "";
  save();
  showDrawing();
  render();
  predict();
}

function showDrawing() {
  const {url, strokes} = drawing(), image = url ? `<image href="${url}" width="1" height="1"/>` : "";
  const line = stroke => `<path d="${path(stroke)}" stroke-width="${stroke.width}"/>`;
  $("pad").innerHTML = image + strokes.map(line).join("");
  $("hint").hidden = !isEmpty();
  $("undo").disabled = !shown;
  $("redo").disabled = shown === drawings.length - 1;
  $("clear").disabled = isEmpty();
}

function toFile() {  // the drawing as a person would send it: ink on white paper, none at its edge
  const {photo, strokes} = drawing(), canvas = new OffscreenCanvas(420, 420), context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, 420, 420);
  context.translate(70, 70);
  context.scale(280, 280);
  context.rect(0, 0, 1, 1);
  context.clip();
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.lineWidth = stroke.width;
    context.stroke(new Path2D(path(stroke)));
  }
  return photo ?? canvas.convertToBlob();
}

async function open(file) {
  if (!file) return;
  try {
    const image = await createImageBitmap(file), scale = Math.min(1, LARGE / Math.max(image.width, image.height));
    const canvas = new OffscreenCanvas(Math.ceil(image.width * scale), Math.ceil(image.height * scale));
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    const photo = await canvas.convertToBlob();
    show(add({strokes: [], photo, url: URL.createObjectURL(photo)}));
  } catch {
    trouble = `${file.name} is not an image that this browser can show.`;
    render();
  }
}

$("pad").onpointerdown = event => {
  if (!event.isPrimary || event.button) return;
  event.preventDefault();
  const pad = $("pad"), box = pad.getBoundingClientRect();
  const point = e => [(e.clientX - box.left) / box.width, (e.clientY - box.top) / box.height];
  const start = point(event), stroke = {points: [start, start], width: $("pen").value / 280};
  pad.setPointerCapture(event.pointerId);
  pad.onpointermove = e => {
    if (!e.isPrimary) return;
    const events = e.getCoalescedEvents?.() ?? [];
    stroke.points.push(...(events.length ? events : [e]).map(point));
    showDrawing();
    if (stroke.points.some(([x, y]) => Math.hypot(x - start[0], y - start[1]) > .1)) predict();
  };
  pad.onlostpointercapture = () => {
    pad.onpointermove = null;
    save();
    predict();
  };
  if (drawing().photo) show(add({strokes: []}));
  add({strokes: [...drawing().strokes, stroke]});
  showDrawing();
};

$("undo").onclick = () => show(shown - 1);
$("redo").onclick = () => show(shown + 1);
$("clear").onclick = () => show(add({strokes: []}));
$("open").onclick = () => $("file").click();
$("file").onclick = () => $("file").value = "";  // or the same file could not be opened again
$("file").onchange = () => open($("file").files[0]);
addEventListener("paste", event => open(event.clipboardData.files[0]));
addEventListener("drop", event => open(event.dataTransfer.files[0]));
for (const name of ["dragover", "drop"]) addEventListener(name, event => event.preventDefault());
addEventListener("keydown", event => {
  const held = {Control: event.ctrlKey || event.metaKey, Alt: event.altKey, Shift: event.shiftKey};
  const keys = [...Object.keys(held).filter(key => held[key]), event.key].join("+");
  const button = document.querySelector(`[aria-keyshortcuts~="${CSS.escape(keys)}" i]`);
  if (!button) return;
  event.preventDefault();
  button.click();
});

// Asking the server: one question at a time, about the newest drawing; while there is no answer, again each second.

const GONE = "The server does not answer; trying again…";
let again = false, connected = false;

async function fetchJson(path, options) {
  const key = sessionStorage.getItem("key"), headers = key ? {"X-API-Key": key} : {};
  const response = await fetch(path, {...options, headers, signal: AbortSignal.timeout(8000)}).catch(() => null);
  if (response?.status === 401) {
    const given = prompt(key ? "The server refused that key. Another?" : "This server asks for a key.");
    if (given === null) throw new Error("This server asks for a key; reload the page to give one.");
    sessionStorage.setItem("key", given.replace(/[^!-~]/g, "?"));  // no header holds others
    return fetchJson(path, options);
  }
  const content = await response?.json().catch(() => null);
  if (!content || response.status >= 500) throw new Error(GONE);
  if (!response.ok) throw new Error(content.detail[0].toUpperCase() + content.detail.slice(1) + ".");
  return content;
}

async function predict() {
  again = true;
  if ($("answer").ariaBusy === "true") return;
  $("answer").ariaBusy = "true";
  while (again) {
    again = false;
    const asked = version;
    try {
      if (!connected) showNetwork(await fetchJson("/api/network"));
      const question = isEmpty() ? null : {method: "POST", body: await toFile()};
      const next = question && await fetchJson("/api/predict?detail=network", question);
      if (asked === version) answer = next;
      trouble = "";
    } catch (error) {
      if (asked === version || !connected) trouble = error.message;
    }
    render();
    if (!connected && trouble !== GONE) return;
    connected = trouble !== GONE;  // it may come back with another network
    again ||= !connected;
    await new Promise(done => setTimeout(done, connected ? 50 : 1000));
  }
  $("answer").ariaBusy = "false";
}

// Telling: the page as text.

const INVITATION = {mnist: "Draw a digit, 0 to 9.", "fashion-mnist": "Draw or open a piece of clothing."};
const KIND = {mnist: "digit", "fashion-mnist": "piece of clothing"};
const NOVEL = .985, DOUBT = .8;  // from this novelty on, and below this probability, an answer is in doubt
let announcement = 0;  // the timer of what a screen reader is told, once the pen rests

function showNetwork(known) {
  if (!network) $("pen").value = known.dataset === "fashion-mnist" ? 60 : 22;
  network = known;
  connected = true;
  const accuracy = `reads ${(100 * network.accuracy).toFixed(1)} % of the ${network.measured_on} set right`;
  $("network").textContent = `${network.layers.join(" – ")} units · ${network.activation} · ${accuracy}`;
  $("of").textContent = `of ${network.training_images.toLocaleString("en")}, ` +
    (network.layers.length > 2 ? "as the last hidden layer sees them" : "pixel by pixel");
  const last = network.layers.length - 1, label = (n, l) => l ? `${n} units` : "what it sees, 28\u00a0×\u00a028";
  const cells = (n, l) => Array.from({length: n}, (_, k) => `<i data-unit="${l}/${k}"></i>`).join("");
  $("net").innerHTML = network.layers.map((n, l) =>
    `<div data-name="${label(n, l)}">${l ? cells(n, l) : '<canvas id="image"></canvas>'}</div>`).join("");
  $("bars").innerHTML = network.classes.map((_, k) =>
    `<li tabindex="0" data-unit="${last}/${k}"><span></span><span class="bar"><i></i></span><b></b></li>`).join("");
  network.classes.forEach((name, k) => {
    $("bars").children[k].firstChild.textContent = name;
    $("net").lastChild.children[k].dataset.name = name.length > 2 ? "" : name;
  });
  $("invitation").textContent = INVITATION[network.dataset] ?? "";
}

const isNovel = () => answer.novelty >= NOVEL;
const isUnsure = () => answer.probabilities[answer.label] < DOUBT;

function sentence() {
  const p = answer.probabilities, [first, second] = p.map((_, k) => k).sort((a, b) => p[b] - p[a]);
  const article = k => network.dataset !== "mnist" ? "" : k === 8 ? "an " : "a ";
  const named = k => `${article(k)}${network.classes[k]}, ${percent(p[k])}`;
  return (isNovel() ? `not like any ${KIND[network.dataset] ?? "image"} it has learned; ` : "") +
    `${isUnsure() ? "perhaps" : "most like"} ${named(first)}` + (p[second] < .0005 ? "" : `; or else ${named(second)}`);
}

function explain() {  // what speaks for the chosen unit, and what against
  const [l, unit] = chosen.split("/").map(Number), sums = answer.sums[l - 1];
  const signed = x => (x < 0 ? "\u2212" : "+") + Math.abs(x).toFixed(2);
  const total = k => signed(sums[k].reduce((a, b) => a + b)), [plus, minus, bias] = sums[unit].map(signed);
  const sum = `${plus} for, ${minus} against, bias ${bias}: ${total(unit)}`;
  const output = answer.activations[l - 1]?.[unit].toFixed(2);
  if (output) return `Unit ${unit + 1} of layer ${l}: ${sum}; its output is ${output}.`;
  const best = unit === answer.label ? "" : `, where ${answer.name} has ${total(answer.label)}`;
  return `${network.classes[unit]}: ${sum}${best}; that makes ${percent(answer.probabilities[unit])}.`;
}

function showAnswer() {
  const name = answer && !trouble ? answer.name : "", text = trouble || (answer ? sentence() : "");
  $("name").textContent = name;
  $("name").classList.toggle("long", name.length > 2);
  $("say").textContent = text;
  $("answer").className = trouble ? "stale" : answer && (isNovel() || isUnsure()) ? "doubt" : "";
  $("because").textContent = answer && chosen ? explain() : "";
  clearTimeout(announcement);
  announcement = setTimeout(() => $("live").textContent = text, 700);
}

for (const name of ["pointermove", "pointerdown", "focusin"]) addEventListener(name, ({target}) => {
  const next = target.closest?.("[data-unit]")?.dataset.unit ?? "";
  if (next === chosen) return;
  chosen = next;
  render();
});

// Drawing the network. Along is the way that the signal goes, across is the other: downwards on a narrow screen.

const isNarrow = () => getComputedStyle($("net")).flexDirection === "column";

function paint(canvas, pixels) {  // 784 of them, in [0, 1]; returns the canvas
  const context = canvas.getContext("2d");
  canvas.width = canvas.height = 28;  // and it is blank
  context.fillStyle = getComputedStyle(document.body).color;
  for (const [n, level] of pixels.entries()) {
    context.globalAlpha = level;
    context.fillRect(n % 28, Math.floor(n / 28), 1, 1);
  }
  return canvas;
}

function fit(layer) {  // a hidden layer's units into lines that fill its share of the figure
  const {clientWidth: w, clientHeight: h} = $("net"), [along, across] = isNarrow() ? [h, w] : [w, h];
  const depth = (along - $("image").offsetWidth) / (2.2 * (network.layers.length - 2)), n = layer.children.length;
  const cell = Math.min(12, Math.floor(Math.sqrt(depth * across / n)) || 1), deep = Math.ceil(n / (across / cell));
  layer.style.setProperty("--cell", `${cell}px`);
  layer.style.setProperty("--lines", Math.ceil(n / deep));
}

function showUnits(layer, outputs, largest) {  // each lit by its share of the largest output
  for (const [k, cell] of [...layer.children].entries()) {
    const level = (outputs[k] ?? 0) / largest;
    cell.style.setProperty("--level", `${100 * Math.abs(level) ** .8}%`);
    cell.classList.toggle("against", level < 0);
  }
}

function boxOf(element) {  // in the coordinates of the lines
  const {x, y, width, height} = element.getBoundingClientRect(), figure = $("lines").getBoundingClientRect();
  return {x: x - figure.x, y: y - figure.y, width, height};
}

function centre(l, unit) {  // of a unit of layer l, or of a pixel where l is 0
  const {x, y, width, height} = boxOf($("net").children[l].children[l ? unit : 0]);
  const [column, row, side] = l ? [0, 0, 1] : [unit % 28, Math.floor(unit / 28), 28];
  return [x + (column + .5) * width / side, y + (row + .5) * height / side];
}

function drawConnections(all, l) {  // the strongest from layer l to the next, weakest first
  const [from, to] = [l, l + 1].map(k => boxOf($("net").children[k])), narrow = isNarrow();
  const middle = narrow ? (from.y + from.height + to.y) / 2 : (from.x + from.width + to.x) / 2;
  const bend = ([x, y]) => narrow ? [x, middle] : [middle, y];
  const mine = all.filter(([, j, value]) => value && (!chosen || chosen === `${l + 1}/${j}`));
  const lines = mine.sort(([, , a], [, , b]) => Math.abs(b) - Math.abs(a)).slice(0, 64);
  return lines.map(([i, j, value]) => {
    const share = Math.abs(value / lines[0][2]), start = centre(l, i), end = centre(l + 1, j);
    return `<path class="${value < 0 ? "against" : ""}" d="M${start}C${bend(start)} ${bend(end)} ${end}"
      opacity="${.08 + .6 * share ** 1.5}" stroke-width="${.5 + 1.3 * share}"/>`;
  }).reverse().join("");
}

function drawNetwork() {
  const [, ...hidden] = $("net").children, last = hidden.pop();
  paint($("image"), answer?.image ?? []);
  hidden.forEach((layer, l) => {
    const outputs = answer?.activations[l] ?? [];
    fit(layer);
    showUnits(layer, outputs, Math.max(1e-6, ...outputs.map(Math.abs)));
  });
  showUnits(last, answer?.probabilities ?? [], 1);
  $("lines").innerHTML = (answer?.connections ?? []).map(drawConnections).join("");
}

function render() {
  showAnswer();
  if (!network) return;
  drawNetwork();
  for (const [k, item] of [...$("bars").children].entries()) {
    item.classList.toggle("first", k === answer?.label);
    item.querySelector("i").style.width = `${100 * (answer?.probabilities[k] ?? 0)}%`;
    item.lastChild.textContent = answer ? percent(answer.probabilities[k]) : "";
  }
  for (const unit of document.querySelectorAll("[data-unit]")) {
    unit.classList.toggle("chosen", unit.dataset.unit === chosen);
  }
  $("closest").hidden = !answer?.closest.length;
  $("examples").replaceChildren(...(answer?.closest ?? []).map(({label, name, image}) => {
    const item = document.createElement("li");
    item.append(paint(document.createElement("canvas"), image), name);
    item.classList.toggle("other", label !== answer.label);
    return item;
  }));
}

new ResizeObserver(render).observe($("net"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
showDrawing();
predict();
