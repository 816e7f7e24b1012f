// Edits as inputs of an exported graph. The same rules as detrscope.core.edit_text and detrscope.inference.graph_interface.

import { cellSize, insideCells, mapsOf, tokenAt } from "./geometry.js";

/** @typedef {import("./payload.js").Header} Header */
/** @typedef {{site: string, heads: number, scale: number | null, point_levels: number[] | null, own_maps?: boolean, windows?: number[] | null, extra: number}} GraphSite */
/**
 * An edit of the grammar: a factor on weights, or a score (null hides).
 * @typedef {{text: string, site: string, factor: number | null, score: number | null, region: number[] | null,
 *   heads?: number[], queries?: number[], keys?: number[], points?: number[], levels?: number[]}} Edit
 */

/** @type {("heads" | "queries" | "keys" | "points" | "levels")[]} */
const SELECTIONS = ["heads", "queries", "keys", "points", "levels"];
/** @type {Record<string, "heads" | "queries" | "keys" | "points" | "levels">} */
const SINGULAR = { head: "heads", query: "queries", key: "keys", point: "points", level: "levels" };

/** The edit that a text describes. @param {string} text @returns {Edit} */
function parseEdit(text) {
  const colon = text.indexOf(":"), site = text.slice(0, Math.max(0, colon)).trim(), rest = text.slice(colon + 1).trim();
  const wrong = (/** @type {string} */ what) => new Error(`edit '${text}': ${what}`);
  if (colon < 0 || !site || !rest || site.includes(" ")) throw wrong("expected SITE: WHAT");
  const words = rest.replace(/\s*,\s*/g, ",").split(/\s+/);
  /** @type {Edit} */
  const edit = { text, site, factor: null, score: null, region: null };
  let action = "", scored = false;
  while (words.length) {
    const word = /** @type {string} */ (words.shift()), name = SINGULAR[word] ?? word;
    const selection = SELECTIONS.find((one) => one === name);
    if (selection) {
      if (edit[selection]) throw wrong(`${selection} are given twice`);
      edit[selection] = numbersIn(words.shift() ?? "", selection, wrong);
    } else if (word === "region") {
      edit.region = (words.shift() ?? "").split(",").map(Number);
      const [x0, y0, x1, y1] = edit.region;
      if (edit.region.length !== 4 || !edit.region.every(Number.isFinite) || x0 >= x1 || y0 >= y1) throw wrong("region: expected x0,y0,x1,y1 with x0 < x1 and y0 < y1");
    } else if (word === "hide" || word === "favour" || word === "favor" || /^x\S+$/.test(word)) {
      if (action) throw wrong(`one action at a time, found '${action}' and '${word}'`);
      action = word;
      if (word.startsWith("x")) edit.factor = Number(word.slice(1));
      if (edit.factor !== null && !Number.isFinite(edit.factor)) throw wrong(`'${word.slice(1)}': expected a number`);
    } else if (action.startsWith("fav") && !scored && /^[+-][\d.]/.test(word)) {
      edit.score = Number(word);
      scored = true;
      if (!Number.isFinite(edit.score)) throw wrong(`'${word}': expected a number`);
    } else throw wrong(`'${word}': expected ${SELECTIONS.join(", ")}, region, hide, favour, or a factor such as x0`);
  }
  if (!action) throw wrong("expected what to do: x0 (mute), x0.5 ..., hide, favour +1 ...");
  if (edit.factor !== null && edit.region) throw wrong("a region takes hide or favour, not a factor");
  if (edit.factor === null && !edit.region && !edit.keys && !edit.levels && !edit.points) throw wrong(`${action} what? expected a region, keys, levels or points`);
  if (action.startsWith("fav") && !scored) edit.score = 1;
  return edit;
}

/** A list such as 2,3,5-7. @param {string} text @param {string} name @param {(what: string) => Error} wrong @returns {number[]} */
function numbersIn(text, name, wrong) {
  return text.split(",").flatMap((part) => {
    const match = /^(\d{1,9})-(\d{1,9})$|^(-?\d{1,9})$/.exec(part);
    if (!match) throw wrong(`${name} '${text}': expected numbers such as 2,3 or 0-5`);
    const first = Number(match[1] ?? match[3]), last = Number(match[2] ?? match[3]);
    if (last < first || last - first > 1e6) throw wrong(`${name} '${part}': expected a range such as 0-5`);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}

/** Whether a site matches a pattern with *. @param {string} site @param {string} pattern */
function matchesSite(site, pattern) {
  return new RegExp(`^${pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*").replaceAll("?", ".")}$`).test(site);
}

/**
 * The inputs of all sites that stand for some edits, by name, with their shapes.
 * @param {GraphSite[]} sites @param {Edit[]} edits @param {Header | null} header of the picture; null without edits
 * @returns {Map<string, {shape: number[], values: Float32Array}>}
 */
function editInputs(sites, edits, header) {
  for (const edit of edits) {
    if (!sites.some(({ site }) => matchesSite(site, edit.site))) throw new Error(`edit '${edit.text}': site '${edit.site}' is not in this model; it has ${sites.map(({ site }) => site).join(", ")}`);
  }
  /** @type {Map<string, {shape: number[], values: Float32Array}>} */
  const inputs = new Map();
  for (const spec of sites) {
    const own = edits.filter((edit) => matchesSite(spec.site, edit.site));
    for (const [name, input] of Object.entries(siteInputs(spec, own, header))) inputs.set(`${spec.site}.${name}`, input);
  }
  return inputs;
}

/** @param {GraphSite} spec @param {Edit[]} edits @param {Header | null} header */
function siteInputs(spec, edits, header) {
  const ofQueries = spec.site.startsWith("decoder.") && spec.site.endsWith(".self");
  header = header && mapsOfSite(header, spec.site);
  const tokens = header ? header.levels.reduce((sum, [h, w]) => sum + h * w, 0) : 1;
  const keys = !edits.length ? 1 : ofQueries ? (header?.queries ?? 1) : tokens;
  const queries = !edits.length ? 1 : !spec.site.startsWith("decoder.") ? tokens : (header?.queries ?? 1);
  const filled = (/** @type {number} */ count, /** @type {number} */ value) => ({ shape: [spec.heads, count], values: new Float32Array(spec.heads * count).fill(value) });
  const points = spec.point_levels?.length ?? 0;
  const extra = (/** @type {number} */ count) => count > 1 ? count + (spec.extra ?? 0) : count; // tokens that lie on no map come last
  /** @type {Record<string, {shape: number[], values: Float32Array}>} */
  const inputs = { key_gain: filled(extra(keys), 1), query_gain: filled(extra(queries), 1) };
  if (spec.point_levels) Object.assign(inputs, { point_gain: filled(points, 1), point_bias: filled(points, 0) });
  else inputs.key_bias = filled(extra(keys), 0);
  for (const edit of edits) if (header) applyEdit(spec, edit, inputs, header, { ofQueries, keys, queries, points });
  return inputs;
}

/**
 * @param {GraphSite} spec @param {Edit} edit @param {Record<string, {shape: number[], values: Float32Array}>} inputs
 * @param {Header} header @param {{ofQueries: boolean, keys: number, queries: number, points: number}} sizes
 */
function applyEdit(spec, edit, inputs, header, sizes) {
  const wrong = (/** @type {string} */ what) => new Error(`edit '${edit.text}': ${what}`);
  const chosen = (/** @type {number[] | undefined} */ list, /** @type {number} */ size, /** @type {string} */ name) => {
    const out = (list ?? []).find((i) => i < -size || i >= size);
    if (out !== undefined) throw wrong(`${name} ${out} is outside 0..${size - 1}`);
    return list ? new Set(list.map((i) => (i + size) % size)) : null;
  };
  const deformable = spec.point_levels !== null, heads = chosen(edit.heads, spec.heads, "head");
  if (edit.points && !deformable) throw wrong("this site attends to all keys and has no points");
  if (edit.region && sizes.ofQueries) return;
  const levels = chosen(edit.levels, header.levels.length, "level");
  if (levels && sizes.ofQueries) throw wrong("the keys there are no tokens of the feature maps");
  const scoresKeys = edit.factor === null && (edit.region || edit.keys);
  const ofPoints = deformable && (edit.points || (edit.levels && !scoresKeys) || !(edit.keys || edit.region));
  const ofKeys = edit.keys || edit.region || (!deformable && edit.levels);
  if (Number(Boolean(edit.queries)) + Number(Boolean(ofKeys)) + Number(Boolean(deformable && (edit.points || edit.levels))) > 1 || (edit.queries && edit.factor === null)) {
    throw wrong("several of queries, keys and points are no input of an exported model");
  }
  const put = (/** @type {string} */ name, /** @type {(at: number) => boolean} */ selected, /** @type {(old: number) => number} */ value) => {
    const { shape, values } = inputs[name];
    for (let head = 0; head < spec.heads; head++) {
      if (heads && !heads.has(head)) continue;
      for (let at = 0; at < shape[1]; at++) if (selected(at)) values[head * shape[1] + at] = value(values[head * shape[1] + at]);
    }
  };
  const scaled = (/** @type {number} */ factor) => (/** @type {number} */ old) => old * factor;
  const shifted = (/** @type {number} */ score) => (/** @type {number} */ old) => old + score;
  const score = edit.score === null ? -Infinity : edit.score;
  if (edit.factor !== null && edit.queries) {
    const queries = /** @type {Set<number>} */ (chosen(edit.queries, sizes.queries, "query"));
    return put("query_gain", (at) => queries.has(at), scaled(edit.factor));
  }
  if (ofPoints) {
    const points = chosen(edit.points, sizes.points, "point"), of = spec.point_levels ?? [];
    const selected = (/** @type {number} */ at) => (!points || points.has(at)) && (!levels || levels.has(of[at]));
    if (edit.factor !== null) return put("point_gain", selected, scaled(edit.factor));
    if (edit.score === null && of.every((_, at) => selected(at))) throw wrong("hides every point; to mute the attention, use the factor x0");
    return put("point_bias", selected, shifted(score));
  }
  const keys = chosen(edit.keys, sizes.keys, "key"), inside = edit.region ? regionTokens(header, edit.region, wrong) : null, level = levelOf(header);
  const selected = (/** @type {number} */ at) => (!keys || keys.has(at)) && (!inside || inside.has(at)) && (!levels || levels.has(level[at]));
  if (edit.factor !== null) return put("key_gain", selected, scaled(edit.factor));
  if (deformable) return put("key_gain", selected, scaled(edit.score === null ? 0 : Math.exp(edit.score)));
  if (edit.score === null && Array.from({ length: sizes.keys }, (_, at) => selected(at)).every(Boolean)) throw wrong("hides every key; to mute the attention, use the factor x0");
  return put("key_bias", selected, shifted(score));
}

/** The header with the maps of a site. @param {Header} header @param {string} name @returns {Header} */
function mapsOfSite(header, name) {
  const site = header.sites.find((one) => one.name === name);
  return site ? mapsOf(header, site) : header;
}

/** Level of each token. @param {Header} header @returns {number[]} */
function levelOf(header) {
  return header.levels.flatMap(([h, w], level) => Array(h * w).fill(level));
}

/** Tokens whose centre lies in a region, or the one at its middle; of every level. @param {Header} header @param {number[]} region @param {(what: string) => Error} wrong @returns {Set<number>} */
function regionTokens(header, region, wrong) {
  const [left, top, right, bottom] = header.crop, [x0, y0, x1, y1] = region;
  if (x1 <= left || x0 >= right || y1 <= top || y0 >= bottom) throw wrong(`the region lies outside of the image: x ${left} to ${right}, y ${top} to ${bottom}`);
  const tokens = new Set();
  let before = 0;
  header.levels.forEach((level, index) => {
    const [width, height] = cellSize(header, level), [rows, columns] = insideCells(header, level);
    let any = false;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const x = left + (column + 0.5) * width, y = top + (row + 0.5) * height;
        if (x >= x0 && x <= x1 && y >= y0 && y <= y1) {
          tokens.add(before + row * level[1] + column);
          any = true;
        }
      }
    }
    const middle = { x: (Math.max(x0, left) + Math.min(x1, right)) / 2, y: (Math.max(y0, top) + Math.min(y1, bottom)) / 2 };
    if (!any) tokens.add(tokenAt(header, middle, index));
    before += level[0] * level[1];
  });
  return tokens;
}

export { parseEdit, editInputs, matchesSite };
