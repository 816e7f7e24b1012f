// The model in this browser: ONNX by onnxruntime-web, with records as outputs and edits as inputs.

import { editInputs, parseEdit } from "./edit_inputs.js";
import { Payload } from "./payload.js";
import { normalised, resized, sizeFor } from "./resize.js";

/** @typedef {import("./edit_inputs.js").GraphSite} GraphSite */
/** @typedef {import("./payload.js").Header} Header */
/**
 * What `detrscope publish` writes of a model.
 * @typedef {{name: string, file: string, runtime: string, samples: string[], variant: string, scoring: "softmax" | "sigmoid", top: number,
 *   classes: {id: number, name: string}[], preprocessing: import("./resize.js").Preprocessing, sites: GraphSite[]}} Published
 */

const TOP_CLASSES = 5;
const MOST_PIXELS = 50_000_000;
const MASK_SIDE = 256; // pixels of the longest side of a mask on the page, as in payload.py

/** A model that runs in this browser. */
class BrowserSource {
  /** @param {Published} published @param {any} ort @param {any} session */
  constructor(published, ort, session) {
    this.published = published;
    this.ort = ort;
    this.session = session;
    this.model = published.name;
    this.canEdit = this.canOpen = true;
    this.canSwap = false; // edits of the graph are factors and scores
    this.offered = published.samples;
    this.runs = null;
    /** @type {{blob: Blob, name: string, height: number, width: number, content: [number, number], tensor: Float32Array} | null} */
    this.picture = null;
    /** @type {Header | null} */
    this.header = null;
  }

  /** Load runtime and model: on the GPU where WebGPU is, else by WebAssembly. @param {Published} published */
  static async open(published) {
    const base = new URL(published.runtime, location.href).href;
    const gpu = "gpu" in navigator && (await /** @type {any} */ (navigator).gpu?.requestAdapter().catch(() => null));
    const ort = await import(`${base}${gpu ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs"}`);
    ort.env.wasm.wasmPaths = base;
    ort.env.logLevel = "error"; // it warns that edits are inputs
    ort.env.wasm.numThreads = 1; // more need headers that not every web host sends
    const session = await ort.InferenceSession.create(new URL(published.file, location.href).href, { executionProviders: gpu ? ["webgpu", "wasm"] : ["wasm"], logSeverityLevel: 3 });
    return new BrowserSource(published, ort, session);
  }

  async first() {
    return this.offered.length ? this.open(this.offered[0]) : null;
  }

  /** @param {Blob | string} image a file, or the name of a sample */
  async open(image) {
    let blob = image;
    if (typeof blob === "string") {
      const answer = await fetch(new URL(`samples/${encodeURIComponent(blob)}`, location.href));
      if (!answer.ok) throw new Error(`${blob}: not there (${answer.status})`);
      blob = await answer.blob();
    }
    this.picture = await this.prepared(blob, typeof image === "string" ? image : "");
    this.header = null;
    return this.edit([]);
  }

  /** @param {Blob} blob @param {string} name */
  async prepared(blob, name) {
    const bitmap = await createImageBitmap(blob).catch(() => { throw new Error("not a picture that this browser can read"); });
    const { width, height } = bitmap;
    if (width * height > MOST_PIXELS) throw new Error(`picture of ${width} x ${height} pixels: expected at most ${MOST_PIXELS.toLocaleString("en")}`);
    const canvas = new OffscreenCanvas(width, height), context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
    context.drawImage(bitmap, 0, 0);
    const { data } = context.getImageData(0, 0, width, height), pixels = new Uint8ClampedArray(width * height * 3);
    for (let i = 0; i < width * height; i++) pixels.set(data.subarray(4 * i, 4 * i + 3), 3 * i);
    const content = sizeFor(this.published.preprocessing, height, width);
    const small = resized({ height, width, data: pixels }, content[0], content[1], this.published.preprocessing.filter, this.published.preprocessing.antialias);
    return { blob, name, height, width, content, tensor: normalised(small, this.published.preprocessing) };
  }

  /** @param {string[]} texts @returns {Promise<Payload>} */
  async edit(texts) {
    const { picture, published, ort } = this;
    if (!picture) throw new Error("open a picture first");
    const edits = texts.map(parseEdit);
    if (edits.length && !this.header) await this.edit([]); // the sizes of the maps
    const [rows, columns] = picture.content, inputs = editInputs(published.sites, edits, edits.length ? this.header : null);
    /** @type {Record<string, any>} */
    const feeds = { images: new ort.Tensor("float32", picture.tensor, [1, 3, rows, columns]) };
    for (const [name, { shape, values }] of inputs) feeds[name] = new ort.Tensor("float32", values, shape);
    const outputs = await this.session.run(feeds);
    const payload = await this.payloadOf(outputs, inputs, texts);
    if (!edits.length) this.header = payload.header;
    return payload;
  }

  /** @param {Record<string, {dims: readonly number[], data: any}>} outputs @param {Map<string, {shape: number[], values: Float32Array}>} inputs @param {string[]} edits */
  async payloadOf(outputs, inputs, edits) {
    const { published } = this, picture = /** @type {NonNullable<BrowserSource["picture"]>} */ (this.picture);
    const [layers, , queries] = outputs.logits.dims, sizes = Array.from(outputs.levels.data, Number);
    const pairs = (/** @type {number[]} */ flat) => Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i], flat[2 * i + 1]]), levels = pairs(sizes);
    const tokens = levels.reduce((sum, [h, w]) => sum + h * w, 0);
    /** @type {Object<string, {shape: number[], values: Float32Array | Int32Array | Uint8Array}>} */
    const arrays = { image: { shape: [picture.blob.size], values: new Uint8Array(await picture.blob.arrayBuffer()) }, ...predictionArrays(outputs, published, picture) };
    const sites = published.sites.map((spec) => {
      const { site, heads } = spec, edited = (/** @type {string} */ name) => inputs.get(`${site}.${name}`);
      const part = (/** @type {string} */ name) => ({ shape: Array.from(outputs[`${site}.${name}`].dims).slice(1), values: Float32Array.from(outputs[`${site}.${name}`].data) });
      if (spec.point_levels) {
        const points = part("points"), gain = edited("key_gain");
        Object.assign(arrays, { [`${site}/points`]: points, [`${site}/weights`]: part("weights") });
        if (gain && gain.values.some((x) => x !== 1)) {
          arrays[`${site}/key_gain`] = gain;
          arrays[`${site}/key_group`] = { shape: [heads, 1, 1], values: Int32Array.from({ length: heads }, (_, head) => head) };
        }
        return /** @type {import("./payload.js").SiteInfo} */ ({ name: site, kind: "deformable", heads, queries: points.shape[1], keys: tokens, scale: 1, pointLevels: spec.point_levels });
      }
      const query = part("query"), key = part("key"), bias = edited("key_bias"), keyGain = edited("key_gain"), queryGain = edited("query_gain");
      Object.assign(arrays, { [`${site}/query`]: query, [`${site}/key`]: key });
      if (bias?.values.some((x) => x !== 0)) arrays[`${site}/bias`] = { shape: [heads, 1, bias.shape[1]], values: bias.values };
      if (keyGain && queryGain && (keyGain.values.some((x) => x !== 1) || queryGain.values.some((x) => x !== 1))) arrays[`${site}/gain`] = outer(queryGain, keyGain);
      return /** @type {import("./payload.js").SiteInfo} */ ({ name: site, kind: "dense", heads, queries: query.shape[1] - spec.extra, keys: key.shape[1] - spec.extra, scale: spec.scale ?? 1, pointLevels: [], extra: spec.extra, ...(spec.windows ? { windows: spec.windows } : {}),
        ...(spec.own_maps ? { levels: pairs(Array.from(outputs[`${site}.levels`].data, Number)) } : {}) });
    });
    const masks = outputs.masks, scale = Math.min(1, MASK_SIDE / Math.max(picture.height, picture.width));
    if (masks) arrays.mask_logits = { shape: Array.from(masks.dims).slice(1), values: Float32Array.from(masks.data) };
    return Payload.of({
      format: 1, by: "", model: published.variant, source: picture.name, scoring: published.scoring, top: published.top, classes: published.classes,
      width: picture.width, height: picture.height, crop: [0, 0, picture.width, picture.height], content: picture.content, padded: picture.content,
      levels, layers, queries, sites, modelSites: published.sites.map(({ site }) => site), leftOut: [], edits, numbers: null, tracks: null, notes: {}, imageType: picture.blob.type || "image/png",
      maskSize: masks ? [picture.height, picture.width].map((side) => Math.max(1, Math.round(side * scale))) : null,
    }, arrays);
  }
}

/** Gains of queries and keys as one. @param {{shape: number[], values: Float32Array}} queries @param {{shape: number[], values: Float32Array}} keys */
function outer(queries, keys) {
  const [heads, rows] = queries.shape, [, columns] = keys.shape, values = new Float32Array(heads * rows * columns);
  for (let head = 0; head < heads; head++) for (let q = 0; q < rows; q++) for (let k = 0; k < columns; k++) values[(head * rows + q) * columns + k] = queries.values[head * rows + q] * keys.values[head * columns + k];
  return { shape: [heads, rows, columns], values };
}

/**
 * Boxes and best classes of every layer and query.
 * @param {Record<string, {dims: readonly number[], data: any}>} outputs @param {Published} published @param {{height: number, width: number}} picture
 */
function predictionArrays(outputs, published, picture) {
  const [layers, , queries, width] = outputs.logits.dims, softmax = published.scoring === "softmax", classes = softmax ? width - 1 : width;
  const count = Math.min(TOP_CLASSES, classes), logits = outputs.logits.data, given = outputs.boxes_cxcywh.data, rows = layers * queries;
  const boxes = new Float32Array(4 * rows), scores = new Float32Array(count * rows), names = new Int32Array(count * rows);
  for (let row = 0; row < rows; row++) {
    const own = Array.from(logits.subarray(row * width, (row + 1) * width), Number), most = Math.max(...own);
    const sum = softmax ? own.reduce((total, x) => total + Math.exp(x - most), 0) : 1;
    const score = own.slice(0, classes).map((x) => (softmax ? Math.exp(x - most) / sum : 1 / (1 + Math.exp(-x))));
    const order = score.map((_, index) => index).sort((a, b) => score[b] - score[a]).slice(0, count);
    order.forEach((index, rank) => {
      names[row * count + rank] = index;
      scores[row * count + rank] = score[index];
    });
    const [x, y, w, h] = given.subarray(4 * row, 4 * row + 4);
    boxes.set([(x - w / 2) * picture.width, (y - h / 2) * picture.height, (x + w / 2) * picture.width, (y + h / 2) * picture.height], 4 * row);
  }
  return { boxes: { shape: [layers, queries, 4], values: boxes }, top_scores: { shape: [layers, queries, count], values: scores }, top_classes: { shape: [layers, queries, count], values: names } };
}

export { BrowserSource };
