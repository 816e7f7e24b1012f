// From a payload and a state to what the stage shows, its caption and its numbers.

import { attentionRow, incomingAttention, mergeHeads, rowAsGrid, samplingPoints, levelStarts } from "./attention.js";
import { cellSize, toOriginal, tokenAt, tokenCentre } from "./geometry.js";
import { classColour, colourRange, shortNumber } from "./colours.js";
import { detections, predictionsOf } from "./predictions.js";

/** @typedef {import("./payload.js").Payload} Payload */
/** @typedef {import("./payload.js").SiteInfo} SiteInfo */
/** @typedef {import("./state.js").State} State */
/**
 * Weights that are shown.
 * @typedef {{site: SiteInfo, row: Float32Array, heads: Float32Array[], rowIndex: number, overImage: boolean,
 *   grid: {height: number, width: number, values: Float32Array} | null, range: {low: number, high: number, words: string} | null}} Looked
 */

const KINDS = { query: "decoder.cross", point: "encoder.self", incoming: "encoder.self", queries: "decoder.self" };

/** Recorded sites of the kind that a state shows. @param {Payload} payload @param {State} state */
function sitesOf(payload, state) {
  const sites = payload.sitesOf(KINDS[state.kind]);
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
  if (state.query >= 0 && state.query < payload.header.queries) return state.query;
  const best = detections(payload, 0);
  return best.length ? best[0].query : 0;
}

/** The weights that a state shows; null where nothing is recorded or chosen. @param {Payload} payload @param {State} state @returns {Looked | null} */
function look(payload, state) {
  const site = siteOf(payload, state), { levels } = payload.header;
  if (!site) return null;
  const level = typeof state.level === "number" && state.level < levels.length ? state.level : "all";
  if (state.kind === "query" || state.kind === "queries") {
    const query = queryOf(payload, state), { heads } = attentionRow(payload, site, query);
    const row = mergeHeads({ site, heads }, state.head);
    if (state.kind === "queries") return { site, row, heads, rowIndex: query, overImage: false, grid: null, range: null };
    return overImage(payload, state, { site, row, heads, rowIndex: query }, level);
  }
  const from = Math.min(state.fromLevel, levels.length - 1);
  const token = tokenAt(payload.header, { x: state.x, y: state.y }, from);
  if (token === null) return null;
  if (state.kind === "point") {
    const { heads } = attentionRow(payload, site, token);
    return overImage(payload, state, { site, row: mergeHeads({ site, heads }, state.head), heads, rowIndex: token }, level);
  }
  const column = incomingAttention(payload, site, token, state.head);
  if (site.name.startsWith("decoder.")) return { site, row: column, heads: [column], rowIndex: token, overImage: false, grid: null, range: null };
  return overImage(payload, state, { site, row: column, heads: [column], rowIndex: token }, level);
}

/** @param {Payload} payload @param {State} state @param {{site: SiteInfo, row: Float32Array, heads: Float32Array[], rowIndex: number}} looked @param {number | "all"} level @returns {Looked} */
function overImage(payload, state, looked, level) {
  const grid = rowAsGrid(payload.header.levels, looked.row, level);
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
  if (looked && !looked.overImage) boxes = queryBoxes(payload, looked.row, state.kind === "queries" ? chosen : -1);
  else {
    const shown = state.every ? Array.from({ length: header.queries }, (_, q) => predictionsOf(payload, header.layers - 1, q)[0]) : detections(payload, state.threshold);
    boxes = shown.map((one) => ({
      box: one.box, colour: classColour(one.index), label: ofQuery && one.query === chosen ? `${one.name} ${one.score.toFixed(2)} #${one.query}` : "",
      width: ofQuery && one.query === chosen ? 3 : 1.5, dashed: one.score < state.threshold,
    }));
    if (ofQuery && looked && !shown.some((one) => one.query === chosen)) {
      const [one] = predictionsOf(payload, header.layers - 1, chosen);
      boxes.unshift({ box: one.box, colour: classColour(one.index), label: `${one.name} ${one.score.toFixed(2)} #${one.query}`, width: 3, dashed: true });
    }
    boxes.sort((a, b) => (b.width ?? 0) - (a.width ?? 0));
  }
  const points = looked && looked.site.kind === "deformable" && state.points && state.kind !== "incoming" ? shownPoints(payload, state, looked) : [];
  return {
    map: looked?.grid && looked.range ? { ...looked.grid, range: looked.range, colours: state.colours, opacity: state.opacity } : null,
    boxes, points, cross: ofQuery || state.x < 0 ? null : { x: state.x, y: state.y }, region: null, pale: Boolean(looked?.grid), smooth: !state.cells,
  };
}

/** The queries that weigh most, as boxes. @param {Payload} payload @param {Float32Array} row @param {number} own @returns {import("./stage.js").ShownBox[]} */
function queryBoxes(payload, row, own) {
  const order = Array.from(row.keys()).sort((a, b) => row[b] - row[a]).slice(0, 8), most = row[order[0]] || 1e-9;
  /** @type {import("./stage.js").ShownBox[]} */
  const boxes = order.map((query) => {
    const [best] = predictionsOf(payload, payload.header.layers - 1, query);
    return { box: best.box, colour: classColour(best.index), label: `${shortNumber(row[query])}  ${best.name} #${query}`, width: 1 + (3 * row[query]) / most };
  });
  if (own >= 0) boxes.unshift({ box: predictionsOf(payload, payload.header.layers - 1, own)[0].box, colour: "#ffffff", width: 3, label: `query ${own}`, dashed: true });
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
  const head = typeof state.head === "number" ? `head ${state.head} of ${looked.site.heads}` : `${state.head} of ${looked.site.heads} heads`;
  const [best] = state.kind === "query" || state.kind === "queries" ? predictionsOf(payload, header.layers - 1, looked.rowIndex) : [null];
  const row = best ? `query ${looked.rowIndex} (${best.name} ${best.score.toFixed(2)})`
    : `${state.kind === "incoming" ? "attention that the point gets" : "token at"} (${Math.round(state.x)}, ${Math.round(state.y)})`;
  const sizes = header.levels.map(([h, w]) => `${h}x${w}`);
  const level = typeof state.level === "number" && header.levels.length > 1 ? `level ${state.level} (${sizes[state.level]})` : sizes.join(" + ");
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
  const centre = tokenCentre(payload.header, peak);
  numbers.push(["peak at", `${centre.x.toFixed(0)}, ${centre.y.toFixed(0)}${payload.header.levels.length > 1 ? `, level ${centre.level}` : ""}`]);
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
  const level = typeof state.level === "number" && state.level < payload.header.levels.length ? state.level : payload.header.levels.findIndex(([h, w]) => h === looked.grid?.height && w === looked.grid?.width);
  const token = tokenAt(payload.header, point, Math.max(0, level));
  if (token === null) return place;
  const cell = token - levelStarts(payload.header.levels)[Math.max(0, level)], weight = looked.grid.values[cell];
  const mass = looked.grid.values.reduce((sum, value) => sum + value, 0) || 1e-12;
  return `${place}: weight ${shortNumber(weight)}, ${shortNumber((weight / mass) * looked.grid.values.length)} times even; token ${token}`;
}

export { KINDS, sitesOf, siteOf, queryOf, look, sceneOf, captionOf, numbersOf, massInBox, weightAt };
