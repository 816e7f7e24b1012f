// What became of each detection after edits. The same rules as detrscope.lens.changes.

import { bestPairs } from "./assignment.js";
import { detections, overlap, predictionsOf } from "./predictions.js";

/** @typedef {import("./payload.js").Payload} Payload */
/** @typedef {import("./predictions.js").Prediction} Prediction */
/** @typedef {{kind: "vanished" | "appeared" | "class" | "moved" | "score" | "same", before: Prediction | null, after: Prediction | null, iou: number, below: number | null}} Change */

const LEAST_IOU = 0.3; // of two boxes that are the same object
const MOVED_IOU = 0.95; // boxes that overlap less have moved
const SCORE_STEP = 0.005; // scores that differ less are the same
/** @type {Change["kind"][]} */
const ORDER = ["vanished", "appeared", "class", "moved", "score", "same"];
const WORDS = { vanished: "vanished", appeared: "appeared", class: "changed class", moved: "moved", score: "changed score", same: "as before" };
const COLOURS = { vanished: "#d55e00", appeared: "#009e73", class: "#cc79a7", moved: "#0072b2", score: "#56b4e9", same: "#969696" };

/**
 * Detections before and after, paired so that their boxes overlap most, those of one class first.
 * @param {Payload} before @param {Payload} after @param {number} threshold
 * @returns {Change[]} vanished first
 */
function changesOf(before, after, threshold) {
  const first = detections(before, threshold), second = detections(after, threshold);
  const partner = bestPairs(first.map((a) => second.map((b) => {
    const iou = overlap(a.box, b.box);
    return iou >= LEAST_IOU ? iou + (a.name === b.name ? 1 : 0) : 0;
  }))), taken = new Set(partner);
  /** @type {Change[]} */
  const changes = first.map((old, i) => {
    const j = partner[i];
    if (j < 0) return { kind: "vanished", before: old, after: null, iou: 0, below: bestBelow(after, old) };
    const now = second[j], iou = overlap(old.box, now.box);
    const kind = old.name !== now.name ? "class" : iou < MOVED_IOU ? "moved" : Math.abs(now.score - old.score) >= SCORE_STEP ? "score" : "same";
    return { kind, before: old, after: now, iou, below: null };
  });
  second.forEach((now, j) => {
    if (!taken.has(j)) changes.push({ kind: "appeared", before: null, after: now, iou: 0, below: bestBelow(before, now) });
  });
  return changes.sort((a, b) => ORDER.indexOf(a.kind) - ORDER.indexOf(b.kind) || Math.abs(scoreChange(b)) - Math.abs(scoreChange(a)));
}

/** Score after less score before. @param {Change} change */
function scoreChange(change) {
  return (change.after?.score ?? change.below ?? 0) - (change.before?.score ?? change.below ?? 0);
}

/** Such as "1 vanished, 2 moved". @param {Change[]} changes */
function summaryOf(changes) {
  const parts = ORDER.map((kind) => [changes.filter((change) => change.kind === kind).length, WORDS[kind]]).filter(([count]) => count);
  return parts.map((part) => part.join(" ")).join(", ") || "nothing detected before or after";
}

/** Best score of a class among the predictions at a place; null if no box is there. @param {Payload} payload @param {Prediction} at */
function bestBelow(payload, at) {
  let best = null;
  for (let query = 0; query < payload.header.queries; query++) {
    for (const one of predictionsOf(payload, payload.header.layers - 1, query)) {
      if (one.name === at.name && overlap(one.box, at.box) >= LEAST_IOU) best = Math.max(best ?? 0, one.score);
    }
  }
  return best;
}

export { changesOf, scoreChange, summaryOf, COLOURS };
