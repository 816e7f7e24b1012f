// Pixels of the original image, of the model's input, and tokens. The same numbers as detrscope.core.geometry.

/** @typedef {import("./payload.js").Header} Header */
/** @typedef {{x: number, y: number}} Point */

/** Pixels of the model's input per pixel of the original. @param {Header} header @returns {[number, number]} */
function scaleOf(header) {
  const [x0, y0, x1, y1] = header.crop;
  return [header.content[1] / (x1 - x0), header.content[0] / (y1 - y0)];
}

/** A point in 0..1 of the model's input as pixels of the original. @param {Header} header @param {number} x @param {number} y @returns {Point} */
function toOriginal(header, x, y) {
  const [across, down] = scaleOf(header);
  return { x: (x * header.padded[1]) / across + header.crop[0], y: (y * header.padded[0]) / down + header.crop[1] };
}

/** Size of a cell of a level in pixels of the original. @param {Header} header @param {number[]} level @returns {[number, number]} */
function cellSize(header, level) {
  const [across, down] = scaleOf(header);
  return [header.padded[1] / level[1] / across, header.padded[0] / level[0] / down];
}

/** Rows and columns of a level that begin on the image, not on padding. @param {Header} header @param {number[]} level @returns {[number, number]} */
function insideCells(header, level) {
  const count = (/** @type {number} */ cells, /** @type {number} */ padded, /** @type {number} */ content) =>
    Array.from({ length: cells }, (_, i) => i * (padded / cells) < content).filter(Boolean).length;
  return [count(level[0], header.padded[0], header.content[0]), count(level[1], header.padded[1], header.content[1])];
}

/**
 * The token, over all levels, whose cell holds a point of the original; null outside the image.
 * @param {Header} header @param {Point} point @param {number} index level
 * @returns {number | null}
 */
function tokenAt(header, point, index) {
  const [x0, y0, x1, y1] = header.crop;
  if (!(point.x >= x0 && point.x <= x1 && point.y >= y0 && point.y <= y1)) return null;
  const level = header.levels[index], [width, height] = cellSize(header, level), [rows, columns] = insideCells(header, level);
  const row = Math.min(Math.floor((point.y - y0) / height), rows - 1), column = Math.min(Math.floor((point.x - x0) / width), columns - 1);
  const before = header.levels.slice(0, index).reduce((sum, [h, w]) => sum + h * w, 0);
  return before + row * level[1] + column;
}

/** Centre of a token in pixels of the original. @param {Header} header @param {number} token @returns {Point & {level: number}} */
function tokenCentre(header, token) {
  let level = 0, rest = token;
  while (rest >= header.levels[level][0] * header.levels[level][1]) rest -= header.levels[level][0] * header.levels[level++][1];
  const [width, height] = cellSize(header, header.levels[level]), columns = header.levels[level][1];
  return { x: header.crop[0] + ((rest % columns) + 0.5) * width, y: header.crop[1] + (Math.floor(rest / columns) + 0.5) * height, level };
}

/** The header with the maps that a site's keys come from. @param {Header} header @param {import("./payload.js").SiteInfo} site @returns {Header} */
function mapsOf(header, site) {
  return site.levels ? { ...header, levels: site.levels } : header;
}

export { mapsOf, toOriginal, cellSize, insideCells, tokenAt, tokenCentre };
