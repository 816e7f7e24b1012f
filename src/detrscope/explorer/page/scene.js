// From a payload and a state to what the stage shows, its caption and its numbers.

import { attentionRow, incomingAttention, mergeHeads, rowAsGrid, samplingPoints, levelStarts } from "./attention.js";
import { cellSize, mapsOf, toOriginal, tokenAt, tokenCentre } from "./geometry.js";
import { classColour, colourRange, shortNumber } from "./colours.js";
import { hasMasks, maskImage } from "./masks.js";
import { detections, predictionsOf } from "./predictions.js";

/** @typedef {import("./payload.js").Payload} Payload */
/** @typedef {import("./payload.js").SiteInfo} SiteInfo */
/** @typedef {import("./state.js").State} State */
/**
 * Weights that are shown.
 * @typedef {{site: SiteInfo, row: Float32Array, heads: Float32Array[], rowIndex: number, overImage: boolean,
 *   grid: {height: number, width: number, values: Float32Array} | null, range: {low: number, high: number, words: string} | null}} Looked
 */

const KINDS = { query: "decoder.cross", point: "encoder.self", incoming: "encoder.self", queries: "decoder.self", mean: "decoder.cross" };

/** Recorded sites of the kind that a state shows. @param {Payload} payload @param {State} state */
function sitesOf(payload, state) {
  const own = payload.sitesOf(KINDS[state.kind]);
  const sites = KINDS[state.kind] === "encoder.self" && !own.length ? payload.sitesOf("backbone.self") : own;
  return state.kind === "incoming" && !sites.length ? payload.sitesOf("decoder.cross") : sites;
}

/** The site that a state shows: its layer, the last one by default. @param {Payload} payload @param {State} state @returns {SiteInfo | null} */
function siteOf(payload, state) {
  const sites = sitesOf(payload, state);
  if (!sites.length) return null;
  return sites[state.layer >= 0 && state.layer < sites.length ? state.layer : sites.length - 1];
}

/** The query that a state shows: the one chosen, else that of the best prediction. @param {Payload} payload @param {State} state */
function queryOf(payload, state) {
  const chosen = payload.queryOf(state.query);
  if (chosen >= 0) return chosen;
  const best = detections(payload, 0);
  return best.length ? best[0].query : 0;
}

/** The weights that a state shows; null where nothing is recorded or chosen. @param {Payload} payload @param {State} state @returns {Looked | null} */
function look(payload, state) {
  const site = siteOf(payload, state);
  if (!site) return null;
  const maps = mapsOf(payload.header, site), { levels } = maps;
  const level = typeof state.level === "number" && state.level < levels.length ? state.level : "all";
  if (state.kind === "query" || state.kind === "queries") {
    const query = queryOf(payload, state), { heads } = attentionRow(payload, site, query);
    const row = mergeHeads({ site, heads }, state.head);
    if (state.kind === "queries") return { site, row, heads, rowIndex: query, overImage: false, grid: null, range: null };
    return overImage(payload, state, { site, row, heads, rowIndex: query }, level);
  }
  if (state.kind === "mean") {
    const { heads, greatest } = meanRow(payload, site);
    return overImage(payload, state, { site, row: state.head === "max" ? greatest : mergeHeads({ site, heads }, state.head), heads, rowIndex: -1 }, level);
  }
  const from = Math.min(state.fromLevel, levels.length - 1);
  const token = tokenAt(maps, { x: state.x, y: state.y }, from);
  if (token === null) return null;
  if (state.kind === "point") {
    const { heads } = attentionRow(payload, site, token);
    return overImage(payload, state, { site, row: mergeHeads({ site, heads }, state.head), heads, rowIndex: token }, level);
  }
  const column = incomingAttention(payload, site, token, state.head);
  if (site.name.startsWith("decoder.")) return { site, row: column, heads: [column], rowIndex: token, overImage: false, grid: null, range: null };
  return overImage(payload, state, { site, row: column, heads: [column], rowIndex: token }, level);
}

/** @typedef {{heads: Float32Array[], greatest: Float32Array}} MeanRow means over queries: of each head, and of the greatest over heads */
/** @type {WeakMap<Payload, Map<string, MeanRow>>} */
const meanRows = new WeakMap();

/** The mean over all queries; a snapshot has it over heads too, of all queries of the model. @param {Payload} payload @param {SiteInfo} site @returns {MeanRow} */
function meanRow(payload, site) {
  const stored = `${site.name}/mean`;
  if (payload.has(stored)) return { heads: [payload.floats(stored)], greatest: payload.floats(stored) };
  const known = meanRows.get(payload)?.get(site.name);
  if (known) return known;
  const heads = Array.from({ length: site.heads }, () => new Float32Array(site.keys)), greatest = new Float32Array(site.keys);
  const add = (/** @type {Float32Array} */ sum, /** @type {Float32Array} */ row) => { for (let key = 0; key < row.length; key++) sum[key] += row[key] / site.queries; };
  for (let query = 0; query < site.queries; query++) {
    const row = attentionRow(payload, site, query);
    row.heads.forEach((one, head) => add(heads[head], one));
    add(greatest, mergeHeads(row, "max"));
  }
  meanRows.set(payload, (meanRows.get(payload) ?? new Map()).set(site.name, { heads, greatest }));
  return { heads, greatest };
}

/** @param {Payload} payload @param {State} state @param {{site: SiteInfo, row: Float32Array, heads: Float32Array[], rowIndex: number}} looked @param {number | "all"} level @returns {Looked} */
function overImage(payload, state, looked, level) {
  const grid = rowAsGrid(mapsOf(payload.header, looked.site).levels, looked.row, level);
  return { ...looked, overImage: true, grid, range: colourRange(grid.values, state.norm) };
}

/**
 * What the stage shows for a state.
 * @param {Payload} payload @param {State} state @param {Looked | null} looked
 * @returns {import("./stage.js").Scene}
 */
function sceneOf(payload, state, looked) {
  const { header } = payload, chosen = queryOf(payload, state), ofQuery = state.kind === "query" || state.kind === "queries";
  /** @type {import("./stage.js").ShownBox[]} */
  let boxes = [];
  /** @type {import("./predictions.js").Prediction[]} */
  let masked = [];
  if (looked && !looked.overImage) boxes = queryBoxes(payload, looked.row, state.kind === "queries" ? chosen : -1);
  else {
    const shown = state.every ? Array.from({ length: header.queries }, (_, q) => predictionsOf(payload, header.layers - 1, q)[0]) : detections(payload, state.threshold);
    boxes = shown.map((one) => ({
      box: one.box, colour: classColour(one.index), label: ofQuery && one.query === chosen ? `${one.name} ${one.score.toFixed(2)} #${one.number}` : "",
      width: ofQuery && one.query === chosen ? 3 : 1.5, dashed: one.score < state.threshold,
    }));
    if (ofQuery && looked && !shown.some((one) => one.query === chosen)) {
      const [one] = predictionsOf(payload, header.layers - 1, chosen);
      boxes.unshift({ box: one.box, colour: classColour(one.index), label: `${one.name} ${one.score.toFixed(2)} #${one.number}`, width: 3, dashed: true });
    }
    masked = ofQuery && !shown.some((one) => one.query === chosen) ? [predictionsOf(payload, header.layers - 1, chosen)[0], ...shown] : shown;
    boxes.sort((a, b) => (b.width ?? 0) - (a.width ?? 0));
    if (state.truth) boxes.push(...annotatedBoxes(payload));
  }
  const points = looked && looked.site.kind === "deformable" && state.points && looked.rowIndex >= 0 && state.kind !== "incoming" ? shownPoints(payload, state, looked) : [];
  return {
    map: looked?.grid && looked.range ? { ...looked.grid, range: looked.range, colours: state.colours, opacity: state.opacity } : null,
    masks: state.masks ? masksOf(payload, masked, ofQuery || state.query >= 0 ? chosen : -1) : [],
    boxes, points, cross: ofQuery || state.kind === "mean" || state.x < 0 ? null : { x: state.x, y: state.y }, region: null, pale: Boolean(looked?.grid), smooth: !state.cells,
  };
}

/**
 * Masks of predictions, that of the chosen query stronger and on top; none where the model predicts none.
 * @param {Payload} payload @param {import("./predictions.js").Prediction[]} shown best first @param {number} chosen
 * @returns {OffscreenCanvas[]} the first on top
 */
function masksOf(payload, shown, chosen) {
  if (!hasMasks(payload)) return [];
  const once = shown.filter((one, at) => shown.findIndex((other) => other.query === one.query) === at);
  const ordered = [...once.filter((one) => one.query === chosen), ...once.filter((one) => one.query !== chosen)];
  return ordered.map((one) => maskImage(payload, one.query, classColour(one.index), one.query === chosen)).filter((image) => image !== null);
}

/** Annotated boxes, white and dashed. @param {Payload} payload @returns {import("./stage.js").ShownBox[]} */
function annotatedBoxes(payload) {
  if (!payload.has("target_boxes")) return [];
  const boxes = payload.floats("target_boxes");
  return Array.from({ length: boxes.length / 4 }, (_, i) => ({ box: Array.from(boxes.subarray(4 * i, 4 * i + 4)), colour: "#ffffff", width: 1.5, dashed: true }));
}

/** The queries that weigh most, as boxes. @param {Payload} payload @param {Float32Array} row @param {number} own @returns {import("./stage.js").ShownBox[]} */
function queryBoxes(payload, row, own) {
  const order = Array.from(row.keys()).sort((a, b) => row[b] - row[a]).slice(0, 8), most = row[order[0]] || 1e-9;
  /** @type {import("./stage.js").ShownBox[]} */
  const boxes = order.map((query) => {
    const [best] = predictionsOf(payload, payload.header.layers - 1, query);
    return { box: best.box, colour: classColour(best.index), label: `${shortNumber(row[query])}  ${best.name} #${best.number}`, width: 1 + (3 * row[query]) / most };
  });
  if (own >= 0) boxes.unshift({ box: predictionsOf(payload, payload.header.layers - 1, own)[0].box, colour: "#ffffff", width: 3, label: `query ${payload.numberOf(own)}`, dashed: true });
  return boxes;
}

/** Sampling points as dots whose area follows the weight. @param {Payload} payload @param {State} state @param {Looked} looked @returns {import("./stage.js").ShownPoint[]} */
function shownPoints(payload, state, looked) {
  const levels = ["#e69f00", "#56b4e9", "#009e73", "#aa3377"];
  const points = samplingPoints(payload, looked.site, looked.rowIndex)
    .filter((one) => typeof state.head !== "number" || one.head === state.head)
    .filter((one) => typeof state.level !== "number" || one.level === state.level);
  const most = Math.max(...points.map((one) => one.weight), 1e-9);
  return points.sort((a, b) => a.weight - b.weight).map((one) => ({
    ...toOriginal(payload.header, one.x, one.y), size: 1.2 + 4 * Math.sqrt(Math.max(0, one.weight) / most), colour: levels[one.level % levels.length],
  }));
}

/** One sentence: model, site, row, head, level, normalisation. @param {Payload} payload @param {State} state @param {Looked | null} looked */
function captionOf(payload, state, looked) {
  const { header } = payload;
  if (!looked) {
    const missing = sitesOf(payload, state).length ? "choose a point on the image" : `no ${KINDS[state.kind]} attention is recorded here`;
    return `${header.model}: ${missing}.`;
  }
  const count = looked.heads.length, stored = header.numbers && count === 1; // snapshots have the mean over heads of dense attention
  const head = stored ? "mean over heads" : typeof state.head === "number" ? `head ${Math.min(state.head, count - 1)} of ${looked.site.heads}` : `${state.head} of ${looked.site.heads} heads`;
  const [best] = state.kind === "query" || state.kind === "queries" ? predictionsOf(payload, header.layers - 1, looked.rowIndex) : [null];
  const row = state.kind === "mean" ? `mean of all ${header.numbers ? "queries of the model" : `${header.queries} queries`}` : best ? `query ${best.number} (${best.name} ${best.score.toFixed(2)})`
    : `${state.kind === "incoming" ? "attention that the point gets" : "token at"} (${Math.round(state.x)}, ${Math.round(state.y)})`;
  const sizes = mapsOf(header, looked.site).levels.map(([h, w]) => `${h}x${w}`);
  const level = typeof state.level === "number" && state.level < sizes.length && sizes.length > 1 ? `level ${state.level} (${sizes[state.level]})` : sizes.join(" + ");
  const mass = looked.row.reduce((sum, weight) => sum + weight, 0);
  return [`${header.model}, ${looked.site.name}`, row, head, looked.overImage ? level : `${header.queries} queries`,
    state.kind === "incoming" ? "" : `weights sum to ${mass.toFixed(3)}`, looked.range ? looked.range.words : ""].filter(Boolean).join("; ") + ".";
}

/** Numbers beside the picture. @param {Payload} payload @param {State} state @param {Looked | null} looked @returns {[string, string][]} */
function numbersOf(payload, state, looked) {
  if (!looked) return [];
  const row = looked.row, mass = row.reduce((sum, weight) => sum + weight, 0) || 1e-12;
  let entropy = 0, peak = 0;
  row.forEach((weight, key) => {
    if (weight > 0) entropy -= (weight / mass) * Math.log(weight / mass);
    if (weight > row[peak]) peak = key;
  });
  /** @type {[string, string][]} */
  const numbers = [
    ["effective keys", `${shortNumber(Math.exp(entropy))} of ${row.length}`],
    ["greatest weight", `${shortNumber(row[peak])} = ${shortNumber((row[peak] / mass) * row.length)} times even`],
  ];
  if (!looked.overImage) return numbers;
  const maps = mapsOf(payload.header, looked.site), centre = tokenCentre(maps, peak);
  numbers.push(["peak at", `${centre.x.toFixed(0)}, ${centre.y.toFixed(0)}${maps.levels.length > 1 ? `, level ${centre.level}` : ""}`]);
  if (state.kind === "query") {
    const { box } = predictionsOf(payload, payload.header.layers - 1, looked.rowIndex)[0], { crop } = payload.header;
    numbers.push(["mass in the box", `${(100 * massInBox(payload, row, box) / mass).toFixed(0)}%`]);
    const area = Math.max(0, Math.min(box[2], crop[2]) - Math.max(box[0], crop[0])) * Math.max(0, Math.min(box[3], crop[3]) - Math.max(box[1], crop[1]));
    numbers.push(["the box's share of the image", `${((100 * area) / ((crop[2] - crop[0]) * (crop[3] - crop[1]))).toFixed(0)}%`]);
  }
  return numbers;
}

/** Mass of a row over tokens that lies in a box, each weight spread evenly over its cell. @param {Payload} payload @param {Float32Array} row @param {number[]} box */
function massInBox(payload, row, box) {
  const { header } = payload, starts = levelStarts(header.levels);
  let sum = 0;
  header.levels.forEach(([rows, columns], level) => {
    const [width, height] = cellSize(header, [rows, columns]);
    for (let y = 0; y < rows; y++) {
      const top = header.crop[1] + y * height, down = Math.max(0, Math.min(box[3], top + height) - Math.max(box[1], top)) / height;
      if (!down) continue;
      for (let x = 0; x < columns; x++) {
        const left = header.crop[0] + x * width, across = Math.max(0, Math.min(box[2], left + width) - Math.max(box[0], left)) / width;
        if (across) sum += row[starts[level] + y * columns + x] * down * across;
      }
    }
  });
  return sum;
}

/** The weight under a point of the image, in words. @param {Payload} payload @param {State} state @param {Looked | null} looked @param {{x: number, y: number}} point */
function weightAt(payload, state, looked, point) {
  const place = `x ${point.x.toFixed(0)}, y ${point.y.toFixed(0)}`;
  if (!looked?.grid) return place;
  const maps = mapsOf(payload.header, looked.site);
  const level = typeof state.level === "number" && state.level < maps.levels.length ? state.level : maps.levels.findIndex(([h, w]) => h === looked.grid?.height && w === looked.grid?.width);
  const token = tokenAt(maps, point, Math.max(0, level));
  if (token === null) return place;
  const cell = token - levelStarts(maps.levels)[Math.max(0, level)], weight = looked.grid.values[cell];
  const mass = looked.grid.values.reduce((sum, value) => sum + value, 0) || 1e-12;
  return `${place}: weight ${shortNumber(weight)}, ${shortNumber((weight / mass) * looked.grid.values.length)} times even; token ${token}`;
}

export { KINDS, sitesOf, siteOf, queryOf, look, sceneOf, captionOf, numbersOf, massInBox, weightAt };
