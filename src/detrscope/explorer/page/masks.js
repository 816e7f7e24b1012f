// Masks of the detections, as images of one colour over the picture.

/** @typedef {import("./payload.js").Payload} Payload */

const INSIDE = 50, STRONG_INSIDE = 85, EDGE = 140; // opacity, of 255: attention stays visible below

/** Whether a payload has masks. @param {Payload} payload */
function hasMasks(payload) {
  return Boolean(payload.header.maskSize) && (payload.has("masks") || payload.has("mask_logits"));
}

/** @type {WeakMap<Payload, Map<string, OffscreenCanvas | null>>} */
const maskImages = new WeakMap();

/**
 * Which pixels of its mask a query covers, row by row: 0 or 1.
 * @param {Payload} payload @param {number} query @returns {Uint8Array}
 */
function maskOf(payload, query) {
  const [height, width] = payload.header.maskSize ?? [0, 0], each = Math.ceil((height * width) / 8);
  if (payload.has("mask_logits")) return enlarged(payload, query, height, width);
  const bits = payload.integers("masks"), mask = new Uint8Array(height * width);
  for (let i = 0; i < mask.length; i++) mask[i] = (bits[query * each + (i >> 3)] >> (7 - (i & 7))) & 1;
  return mask;
}

/**
 * The mask of a query from its coarse logits, enlarged bilinearly, for a model that runs in this browser: 0 or 1.
 * @param {Payload} payload @param {number} query @param {number} height @param {number} width @returns {Uint8Array}
 */
function enlarged(payload, query, height, width) {
  const [, h, w] = payload.shape("mask_logits"), logits = payload.floats("mask_logits"), first = query * h * w, mask = new Uint8Array(height * width);
  const columns = weights(width, w);
  weights(height, h).forEach(([top, bottom, down], y) => {
    const upper = first + top * w, lower = first + bottom * w;
    columns.forEach(([left, right, across], x) => {
      const above = logits[upper + left] * (1 - across) + logits[upper + right] * across, below = logits[lower + left] * (1 - across) + logits[lower + right] * across;
      mask[y * width + x] = above * (1 - down) + below * down > 0 ? 1 : 0;
    });
  });
  return mask;
}

/** For each of `size` pixels its two neighbours among `coarse` ones and the share of the second. @param {number} size @param {number} coarse @returns {[number, number, number][]} */
function weights(size, coarse) {
  return Array.from({ length: size }, (_, i) => {
    const at = Math.max(0, ((i + 0.5) * coarse) / size - 0.5), low = Math.min(Math.floor(at), coarse - 1);
    return [low, Math.min(low + 1, coarse - 1), at - low];
  });
}

/**
 * The mask of a query: its colour inside, denser at the edge; null where nothing is inside.
 * @param {Payload} payload @param {number} query @param {string} colour such as #e69f00 @param {boolean} strong
 * @returns {OffscreenCanvas | null}
 */
function maskImage(payload, query, colour, strong) {
  const known = maskImages.get(payload) ?? new Map(), key = `${query} ${colour} ${strong}`;
  maskImages.set(payload, known);
  const cached = known.get(key);
  if (cached !== undefined) return cached;
  const [height, width] = payload.header.maskSize ?? [0, 0], mask = maskOf(payload, query);
  const inside = (/** @type {number} */ x, /** @type {number} */ y) => x >= 0 && y >= 0 && x < width && y < height && mask[y * width + x] === 1;
  const rgb = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)), pixels = new Uint8ClampedArray(4 * mask.length);
  let any = false;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!mask[i]) continue;
      any = true;
      const edge = !(inside(x - 1, y) && inside(x + 1, y) && inside(x, y - 1) && inside(x, y + 1));
      pixels.set([...rgb, edge ? (strong ? 255 : EDGE) : strong ? STRONG_INSIDE : INSIDE], 4 * i);
    }
  }
  let image = null;
  if (any) {
    image = new OffscreenCanvas(width, height);
    image.getContext("2d")?.putImageData(new ImageData(pixels, width, height), 0, 0);
  }
  known.set(key, image);
  return image;
}

export { hasMasks, maskImage, maskOf };
