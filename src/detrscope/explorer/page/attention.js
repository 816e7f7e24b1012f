// Attention maps from records, computed when somebody looks. The same numbers as detrscope.lens.maps.

/** @typedef {import("./payload.js").Payload} Payload */
/** @typedef {import("./payload.js").SiteInfo} SiteInfo */
/**
 * Weights of one row: of every head over all keys.
 * @typedef {{site: SiteInfo, heads: Float32Array[]}} Row
 */
/**
 * A sampling point: where, with which weight.
 * @typedef {{x: number, y: number, weight: number, head: number, level: number, point: number}} SamplingPoint
 */

/**
 * Index into an array of a record that broadcasts: axes of size 1 stand for all.
 * @param {number[]} shape @param {number[]} index
 */
function broadcastIndex(shape, index) {
  let at = 0;
  for (let axis = 0; axis < shape.length; axis++) at = at * shape[axis] + (shape[axis] === 1 ? 0 : index[axis]);
  return at;
}

/**
 * Whether tokens of a site attend to one another: always, but for those of different windows. Extra tokens belong to windows in order.
 * @param {SiteInfo} site
 * @returns {(query: number, key: number) => boolean}
 */
function attends(site) {
  const { windows, levels, extra = 0 } = site;
  if (!windows || !levels) return () => true;
  const [[height, width]] = levels, [rows, columns] = windows, each = extra / (rows * columns);
  const tall = Math.ceil(height / rows), wide = Math.ceil(width / columns);
  const window = Int32Array.from({ length: height * width + extra }, (_, token) => token >= height * width ? Math.floor((token - height * width) / each)
    : Math.floor(Math.floor(token / width) / tall) * columns + Math.floor((token % width) / wide));
  return (query, key) => window[query] === window[key];
}

/**
 * The row of a query over all keys, of every head: softmax of the scaled products and the bias, times the gain.
 * @param {Payload} payload @param {SiteInfo} site @param {number} query
 * @returns {Row}
 */
function denseRow(payload, site, query) {
  const q = payload.floats(`${site.name}/query`), k = payload.floats(`${site.name}/key`);
  const extra = site.extra ?? 0, keys = site.keys + extra, queries = site.queries + extra, together = attends(site);
  const width = payload.shape(`${site.name}/query`)[2];
  const bias = payload.has(`${site.name}/bias`) ? payload.floats(`${site.name}/bias`) : null;
  const gain = payload.has(`${site.name}/gain`) ? payload.floats(`${site.name}/gain`) : null;
  const biasShape = bias ? payload.shape(`${site.name}/bias`) : [], gainShape = gain ? payload.shape(`${site.name}/gain`) : [];
  const heads = [];
  for (let head = 0; head < site.heads; head++) {
    const row = new Float32Array(keys);
    const from = (head * queries + query) * width;
    let most = -Infinity;
    for (let key = 0, at = head * keys * width; key < keys; key++) {
      if (!together(query, key)) {
        row[key] = -Infinity;
        at += width;
        continue;
      }
      let sum = 0;
      for (let i = 0; i < width; i++) sum += q[from + i] * k[at++];
      sum *= site.scale;
      if (bias) sum += bias[broadcastIndex(biasShape, [head, query, key])];
      row[key] = sum;
      if (sum > most) most = sum;
    }
    let total = 0;
    if (most === -Infinity) row.fill(most = 0); // a window that an edit hides as a whole: its queries attend to nothing
    else for (let key = 0; key < keys; key++) total += row[key] = Math.exp(row[key] - most);
    for (let key = 0; key < keys; key++) {
      row[key] /= total || 1;
      if (gain) row[key] *= gain[broadcastIndex(gainShape, [head, query, key])];
    }
    heads.push(extra ? row.slice(0, site.keys) : row);
  }
  return { site, heads };
}

/**
 * The sampling points of a query, in 0..1 of the model's input with its padding.
 * @param {Payload} payload @param {SiteInfo} site @param {number} query
 * @returns {SamplingPoint[]}
 */
function samplingPoints(payload, site, query) {
  const points = payload.floats(`${site.name}/points`), weights = payload.floats(`${site.name}/weights`);
  const count = site.pointLevels.length, found = [];
  for (let head = 0; head < site.heads; head++) {
    for (let point = 0; point < count; point++) {
      const at = (head * site.queries + query) * count + point;
      found.push({ x: points[2 * at], y: points[2 * at + 1], weight: weights[at], head, level: site.pointLevels[point], point });
    }
  }
  return found;
}

/**
 * The factor of a key for a point after edits of keys; 1 without.
 * @param {Payload} payload @param {SiteInfo} site
 * @returns {(head: number, query: number, point: number, key: number) => number}
 */
function keyGain(payload, site) {
  if (!payload.has(`${site.name}/key_gain`)) return () => 1;
  const gain = payload.floats(`${site.name}/key_gain`), keys = payload.shape(`${site.name}/key_gain`)[1];
  const group = payload.integers(`${site.name}/key_group`), shape = payload.shape(`${site.name}/key_group`);
  return (head, query, point, key) => gain[group[broadcastIndex(shape, [head, query, point])] * keys + key];
}

/**
 * The row of a query at a deformable site over all keys: each weight spread over the four tokens around its point.
 * @param {Payload} payload @param {SiteInfo} site @param {number} query
 * @returns {Row}
 */
function deformableRow(payload, site, query) {
  const { levels } = payload.header, starts = levelStarts(levels), gain = keyGain(payload, site);
  const heads = Array.from({ length: site.heads }, () => new Float32Array(site.keys));
  for (const { x, y, weight, head, level, point } of samplingPoints(payload, site, query)) {
    const [height, width] = levels[level];
    const column = x * width - 0.5, line = y * height - 0.5;
    const left = Math.floor(column), top = Math.floor(line);
    for (let dy = 0; dy < 2; dy++) {
      for (let dx = 0; dx < 2; dx++) {
        const cx = left + dx, cy = top + dy;
        if (!(cx >= 0 && cy >= 0 && cx < width && cy < height)) continue;
        const share = (dx ? column - left : 1 - column + left) * (dy ? line - top : 1 - line + top);
        const key = starts[level] + cy * width + cx;
        heads[head][key] += weight * share * gain(head, query, point, key);
      }
    }
  }
  return { site, heads };
}

/**
 * The row of a query at any site.
 * @param {Payload} payload @param {SiteInfo} site @param {number} query
 * @returns {Row}
 */
function attentionRow(payload, site, query) {
  return site.kind === "dense" ? denseRow(payload, site, query) : deformableRow(payload, site, query);
}

/** First key of each level. @param {number[][]} levels @returns {number[]} */
function levelStarts(levels) {
  const starts = [0];
  for (const [height, width] of levels) starts.push(starts[starts.length - 1] + height * width);
  return starts;
}

/**
 * One row of all heads: their mean or greatest weight, or one head.
 * @param {Row} row @param {number | "mean" | "max"} head
 * @returns {Float32Array}
 */
function mergeHeads(row, head) {
  if (typeof head === "number") return row.heads[Math.min(head, row.heads.length - 1)];
  const merged = new Float32Array(row.heads[0].length);
  for (const one of row.heads) {
    for (let key = 0; key < merged.length; key++) {
      merged[key] = head === "max" ? Math.max(merged[key], one[key]) : merged[key] + one[key] / row.heads.length;
    }
  }
  return merged;
}

/**
 * The attention that a key gets from every query: a column of the map.
 * @param {Payload} payload @param {SiteInfo} site @param {number} key @param {number | "mean" | "max"} head
 * @returns {Float32Array}
 */
function incomingAttention(payload, site, key, head) {
  const weight = site.kind === "dense" ? denseColumns(payload, site, key) : deformableColumns(payload, site, key);
  return mergeHeads({ site, heads: weight }, head);
}

/** Logarithms of the sums that the softmax of each head and query divides by, by site. @type {WeakMap<Payload, Map<string, Float32Array>>} */
const SUMS = new WeakMap();

/**
 * The attention that a key gets at a dense site, of every head.
 * @param {Payload} payload @param {SiteInfo} site @param {number} key
 * @returns {Float32Array[]}
 */
function denseColumns(payload, site, key) {
  const sums = softmaxSums(payload, site);
  const gain = payload.has(`${site.name}/gain`) ? payload.floats(`${site.name}/gain`) : null;
  const shape = gain ? payload.shape(`${site.name}/gain`) : [], together = attends(site);
  return Array.from({ length: site.heads }, (_, head) => {
    const column = new Float32Array(site.queries);
    for (let query = 0; query < site.queries; query++) {
      if (!together(query, key) || sums[head * site.queries + query] === -Infinity) continue;
      const weight = Math.exp(denseScore(payload, site, head, query, key) - sums[head * site.queries + query]);
      column[query] = gain ? weight * gain[broadcastIndex(shape, [head, query, key])] : weight;
    }
    return column;
  });
}

/** @param {Payload} payload @param {SiteInfo} site @param {number} head @param {number} query @param {number} key */
function denseScore(payload, site, head, query, key) {
  const q = payload.floats(`${site.name}/query`), k = payload.floats(`${site.name}/key`);
  const width = payload.shape(`${site.name}/query`)[2];
  const extra = site.extra ?? 0;
  const from = (head * (site.queries + extra) + query) * width, to = (head * (site.keys + extra) + key) * width;
  let sum = 0;
  for (let i = 0; i < width; i++) sum += q[from + i] * k[to + i];
  sum *= site.scale;
  if (!payload.has(`${site.name}/bias`)) return sum;
  return sum + payload.floats(`${site.name}/bias`)[broadcastIndex(payload.shape(`${site.name}/bias`), [head, query, key])];
}

/** @param {Payload} payload @param {SiteInfo} site @returns {Float32Array} [heads * queries] */
function softmaxSums(payload, site) {
  const known = SUMS.get(payload) ?? new Map();
  SUMS.set(payload, known);
  const stored = known.get(site.name);
  if (stored) return stored;
  const sums = new Float32Array(site.heads * site.queries), together = attends(site), keys = site.keys + (site.extra ?? 0);
  for (let head = 0; head < site.heads; head++) {
    for (let query = 0; query < site.queries; query++) {
      const scores = Float32Array.from({ length: keys }, (_, key) => together(query, key) ? denseScore(payload, site, head, query, key) : -Infinity);
      const most = scores.reduce((a, b) => Math.max(a, b), -Infinity);
      sums[head * site.queries + query] = most === -Infinity ? most : most + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - most), 0));
    }
  }
  known.set(site.name, sums);
  return sums;
}

/**
 * The attention that a key gets at a deformable site, of every head: of points within a cell of it.
 * @param {Payload} payload @param {SiteInfo} site @param {number} key
 * @returns {Float32Array[]}
 */
function deformableColumns(payload, site, key) {
  const { levels } = payload.header, starts = levelStarts(levels), gain = keyGain(payload, site);
  const level = levels.findIndex((_, index) => key < starts[index + 1]), [height, width] = levels[level];
  const cellX = (key - starts[level]) % width, cellY = Math.floor((key - starts[level]) / width);
  const points = payload.floats(`${site.name}/points`), weights = payload.floats(`${site.name}/weights`);
  const count = site.pointLevels.length;
  return Array.from({ length: site.heads }, (_, head) => {
    const column = new Float32Array(site.queries);
    for (let query = 0; query < site.queries; query++) {
      for (let point = 0; point < count; point++) {
        if (site.pointLevels[point] !== level) continue;
        const at = (head * site.queries + query) * count + point;
        const share = Math.max(0, 1 - Math.abs(points[2 * at] * width - 0.5 - cellX)) * Math.max(0, 1 - Math.abs(points[2 * at + 1] * height - 0.5 - cellY));
        if (share > 0) column[query] += weights[at] * share * gain(head, query, point, key);
      }
    }
    return column;
  });
}

/**
 * A row over image tokens as one grid: the level, or all levels added on the finest, each weight spread over its area.
 * @param {number[][]} levels @param {Float32Array} row @param {number | "all"} level
 * @returns {{height: number, width: number, values: Float32Array}}
 */
function rowAsGrid(levels, row, level) {
  const starts = levelStarts(levels);
  if (typeof level === "number" || levels.length === 1) {
    const index = typeof level === "number" ? level : 0, [height, width] = levels[index];
    return { height, width, values: row.slice(starts[index], starts[index + 1]) };
  }
  const areas = levels.map(([h, w]) => h * w), finest = areas.indexOf(Math.max(...areas));
  const [height, width] = levels[finest], values = row.slice(starts[finest], starts[finest + 1]);
  for (let index = 0; index < levels.length; index++) {
    if (index === finest) continue;
    const [h, w] = levels[index];
    const down = overlaps(h, height), across = overlaps(w, width);
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++) {
        const weight = row[starts[index] + y * w + x];
        if (weight === 0) continue;
        for (const [fy, sy] of down[y]) for (const [fx, sx] of across[x]) values[fy * width + fx] += weight * sy * sx;
      }
    }
  }
  return { height, width, values };
}

/** For each of `coarse` cells the fine ones it overlaps, with its share in each. @param {number} coarse @param {number} fine */
function overlaps(coarse, fine) {
  return Array.from({ length: coarse }, (_, cell) => {
    const low = (cell * fine) / coarse, high = ((cell + 1) * fine) / coarse;
    /** @type {[number, number][]} */
    const found = [];
    for (let at = Math.floor(low); at < Math.min(Math.ceil(high - 1e-9), fine); at++) {
      const share = (Math.min(high, at + 1) - Math.max(low, at)) / (high - low);
      if (share > 0) found.push([at, share]);
    }
    return found;
  });
}

export { attentionRow, denseRow, deformableRow, samplingPoints, incomingAttention, mergeHeads, rowAsGrid, levelStarts };
