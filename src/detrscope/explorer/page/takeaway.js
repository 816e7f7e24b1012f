// What is shown, as a command, a line of Python, and a picture.

import { isSwap } from "./edits.js";
import { siteOf, queryOf } from "./scene.js";

/** @typedef {import("./payload.js").Payload} Payload */
/** @typedef {import("./state.js").State} State */

/** A word of a shell command. @param {string} text */
function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Number of the layer that a state shows. @param {Payload} payload @param {State} state */
function layerOf(payload, state) {
  const match = siteOf(payload, state)?.name.match(/\.(\d+)\./);
  return match ? Number(match[1]) : 0;
}

/** @typedef {{path: string, image: string}} Film run folder and probe image */

/** The command that draws a snapshot among the stills of its film. @param {Payload} payload @param {State} state @param {Film} film @returns {string} */
function filmCommandOf(payload, state, { path, image }) {
  const which = state.kind === "mean" ? ["--view", "mean", "--queries", "all"] : ["--view", "queries", "--query", String(payload.keyOf(queryOf(payload, state)))];
  return ["detrscope", "timelapse", path, ...which, "--image", image, "--layer", String(layerOf(payload, state)), "--stills"].map(quoted).join(" ");
}

/** The same in Python. @param {Payload} payload @param {State} state @param {Film} film @returns {string} */
function filmPythonOf(payload, state, { path, image }) {
  const which = state.kind === "mean" ? `view="mean", queries="all"` : `view="queries", query=${payload.keyOf(queryOf(payload, state))}`;
  return `ds.timelapse(${JSON.stringify(path)}, ${which}, image=${JSON.stringify(image)}, layer=${layerOf(payload, state)}, stills=True)`;
}

/** The command that draws what a state shows. @param {Payload} payload @param {State} state @param {string} model @param {string[]} edits @returns {string} */
function commandOf(payload, state, model, edits) {
  const views = { query: "per-query", point: "encoder", incoming: "incoming", queries: "query-self-attention", mean: "mean" };
  const words = ["detrscope", "see", payload.header.source || "IMAGE", "--model", model, "--view", views[state.kind]];
  if (state.kind === "query" || state.kind === "queries") words.push("--query", String(queryOf(payload, state)));
  else if (state.kind === "mean") words.push("--threshold", "0");
  else words.push("--point", `${Math.round(state.x)},${Math.round(state.y)}`);
  words.push("--layer", String(layerOf(payload, state)));
  if (typeof state.head === "number") words.push("--head", String(state.head));
  else if (state.head === "max") words.push("--merge", "max");
  if (typeof state.level === "number" && state.kind !== "queries") words.push("--level", String(state.level));
  if ((state.kind === "point" || state.kind === "incoming") && state.fromLevel) words.push("--from-level", String(state.fromLevel));
  if (state.cells) words.push("--cells");
  for (const edit of edits) {
    if (isSwap(edit)) words.push("--swap", `${edit.replace(/^swap\s+/, "")} from OTHER.trace`);
    else words.push("--edit", edit);
  }
  return words.map(quoted).join(" ");
}

/** A swap in Python. @param {string} edit */
function swapPython(edit) {
  const [, site, part] = edit.split(/\s+/);
  return `*ds.swaps_from(ds.Trace.load("OTHER.trace"), ${JSON.stringify(site)}${part ? `, ${JSON.stringify(part)}` : ""})`;
}

/** A line of Python that computes the same map. @param {Payload} payload @param {State} state @param {string} model @param {string[]} texts @returns {string} */
function pythonOf(payload, state, model, texts) {
  const text = (/** @type {string} */ value) => JSON.stringify(value);
  const code = texts.map((edit) => (isSwap(edit) ? swapPython(edit) : text(edit)));
  const edits = code.length ? `, edits=[${code.join(", ")}]` : "";
  const trace = `ds.load(${text(model)}).trace(${text(payload.header.source || "IMAGE")}${edits})`;
  const layer = `layer=${layerOf(payload, state)}`, head = typeof state.head === "number" ? `, head=${state.head}` : state.head === "max" ? `, merge="max"` : "";
  const level = typeof state.level === "number" ? `, level=${state.level}` : "", from = state.fromLevel ? `, from_level=${state.fromLevel}` : "";
  const point = `(${Math.round(state.x)}, ${Math.round(state.y)})`;
  if (state.kind === "query") return `${trace}.cross_attention(query=${queryOf(payload, state)}, ${layer}${head}${level}).show()`;
  if (state.kind === "queries") return `${trace}.self_attention(query=${queryOf(payload, state)}, ${layer}${head}).show()`;
  if (state.kind === "point") return `${trace}.self_attention(point=${point}, ${layer}${head}${level}${from}).show()`;
  if (state.kind === "mean") return `${trace}.cross_attention(${layer}${head}${level}).show()`;
  return `${trace}.incoming_attention(point=${point}, ${layer}${head}${level}${from}).show()`;
}

/** The picture of a canvas with its caption below, as a PNG file. @param {HTMLCanvasElement} canvas @param {string} caption @returns {Promise<Blob>} */
async function pictureOf(canvas, caption) {
  const size = Math.max(12, Math.round(canvas.width / 60)), lines = wrapped(caption, canvas.width - size, size);
  const sheet = new OffscreenCanvas(canvas.width, canvas.height + Math.round(size * (1.4 * lines.length + 0.8)));
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (sheet.getContext("2d"));
  context.fillStyle = "#fff";
  context.fillRect(0, 0, sheet.width, sheet.height);
  context.drawImage(canvas, 0, 0);
  context.fillStyle = "#333";
  context.font = `${size}px system-ui, sans-serif`;
  lines.forEach((line, i) => context.fillText(line, size / 2, canvas.height + size * (1.3 + 1.4 * i)));
  return sheet.convertToBlob({ type: "image/png" });
}

/** @param {string} text @param {number} width @param {number} size @returns {string[]} */
function wrapped(text, width, size) {
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (new OffscreenCanvas(1, 1).getContext("2d"));
  context.font = `${size}px system-ui, sans-serif`;
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines[lines.length - 1]} ${word}`.trim();
    if (context.measureText(longer).width <= width || !lines[lines.length - 1]) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}

/** Offer a file to save. @param {Blob} blob @param {string} name */
function saveFile(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export { filmCommandOf, filmPythonOf, commandOf, pythonOf, pictureOf, saveFile };
