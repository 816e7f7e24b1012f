// Predictions of the decoder layers, and which of them count as detections.

/** @typedef {import("./payload.js").Payload} Payload */
/** @typedef {{query: number, number: number, index: number, name: string, score: number, box: number[]}} Prediction */

/**
 * Best classes of a query in a layer.
 * @param {Payload} payload @param {number} layer @param {number} query
 * @returns {Prediction[]} best first
 */
function predictionsOf(payload, layer, query) {
  const { queries, classes } = payload.header, [, , count] = payload.shape("top_classes");
  const names = payload.integers("top_classes"), scores = payload.floats("top_scores"), boxes = payload.floats("boxes");
  const row = layer * queries + query;
  return Array.from({ length: count }, (_, rank) => {
    const index = names[row * count + rank];
    return { query, number: payload.numberOf(query), index, name: classes[index].name, score: scores[row * count + rank], box: Array.from(boxes.subarray(4 * row, 4 * row + 4)) };
  });
}

/**
 * Detections of a layer with a score of at least the threshold, best first.
 * @param {Payload} payload @param {number} threshold @param {number} [layer] the last by default
 * @returns {Prediction[]}
 */
function detections(payload, threshold, layer = payload.header.layers - 1) {
  const sigmoid = payload.header.scoring === "sigmoid", found = [];
  for (let query = 0; query < payload.header.queries; query++) {
    const best = predictionsOf(payload, layer, query);
    found.push(...(sigmoid ? best : best.slice(0, 1)).filter((one) => one.score >= threshold));
  }
  found.sort((a, b) => b.score - a.score);
  return sigmoid ? found.slice(0, payload.header.top) : found;
}

/** Share of two boxes' union that both cover. @param {number[]} a @param {number[]} b */
function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (/** @type {number[]} */ box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}

/**
 * The prediction of another payload of the same picture that shows the same object: its box overlaps most, of
 * boxes that overlap alike the one that scores best for the class.
 * @param {Payload} payload @param {number} query @param {Payload} other @returns {number} query of the other payload
 */
function samePrediction(payload, query, other) {
  const [one] = predictionsOf(payload, payload.header.layers - 1, query);
  let best = 0, most = -1;
  for (let candidate = 0; candidate < other.header.queries; candidate++) {
    const [two] = predictionsOf(other, other.header.layers - 1, candidate);
    const alike = overlap(one.box, two.box) + (two.name === one.name ? two.score : 0);
    if (alike > most) [best, most] = [candidate, alike];
  }
  return best;
}

export { samePrediction, predictionsOf, detections, overlap };
