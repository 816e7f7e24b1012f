// What is shown, as plain values: they make the link that restores the view.

/**
 * kind: "query" cross-attention of a query; "point" encoder self-attention of a point; "incoming" attention that a point
 *   gets; "queries" self-attention of a query; "mean" cross-attention of
 *   all queries. run, image, step: snapshot of a training; otherRun, otherStep: the one beside it, none below 0.
 * @typedef {{kind: "query" | "point" | "incoming" | "queries" | "mean", query: number, x: number, y: number, layer: number,
 *   head: number | "mean" | "max", level: number | "all", fromLevel: number, threshold: number, every: boolean,
 *   colours: import("./colours.js").ColourMap, opacity: number, norm: import("./colours.js").Norm, cells: boolean,
 *   points: boolean, truth: boolean, masks: boolean, run: number, image: number, step: number, otherRun: number, otherStep: number, zoom: number, left: number, top: number}} State
 */

/** @type {State} */
const FIRST_STATE = {
  kind: "query", query: -1, x: -1, y: -1, layer: -1, head: "mean", level: "all", fromLevel: 0, threshold: 0.5, every: false,
  colours: "inferno", opacity: 0.85, norm: "even", cells: false, points: true, truth: true, masks: true, run: 0, image: 0, step: -1, otherRun: -1, otherStep: 0, zoom: 1, left: 0, top: 0,
};

/** The state in the part of an address behind #; values that do not fit are left at their first ones. @param {string} hash @returns {State} */
function stateOf(hash) {
  /** @type {Record<string, unknown>} */
  const state = { ...FIRST_STATE };
  for (const [name, text] of new URLSearchParams(hash.replace(/^#/, ""))) {
    const first = /** @type {Record<string, unknown>} */ (FIRST_STATE)[name];
    if (typeof first === "number" && Number.isFinite(Number(text))) state[name] = Number(text);
    else if (typeof first === "boolean") state[name] = text === "1";
    else if (name === "head" || name === "level") state[name] = /^\d{1,4}$/.test(text) ? Number(text) : text;
    else if (typeof first === "string") state[name] = text;
  }
  const one = (/** @type {string} */ name, /** @type {unknown[]} */ valid) => {
    if (!valid.includes(state[name])) state[name] = /** @type {Record<string, unknown>} */ (FIRST_STATE)[name];
  };
  one("kind", ["query", "point", "incoming", "queries", "mean"]);
  one("colours", ["inferno", "viridis", "cividis", "grey"]);
  one("norm", ["even", "peak", "one"]);
  if (typeof state.head !== "number") one("head", ["mean", "max"]);
  if (typeof state.level !== "number") one("level", ["all"]);
  return /** @type {State} */ (state);
}

/** The part of an address behind # that restores a state. @param {State} state @returns {string} */
function hashOf(state) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value === /** @type {Record<string, unknown>} */ (FIRST_STATE)[name]) continue;
    parts.set(name, typeof value === "boolean" ? (value ? "1" : "0") : typeof value === "number" ? String(Math.round(value * 1000) / 1000) : value);
  }
  return parts.toString();
}

export { FIRST_STATE, stateOf, hashOf };
