// Resize and normalisation before the model, as torchvision and detrscope.core.preprocessing do it.

/**
 * @typedef {{short_side: number, long_side: number, mean: number[], std: number[], fit: "sides" | "within" | "exact" | "none",
 *   box: number[] | null, filter: "nearest" | "bilinear" | "bicubic", antialias?: boolean}} Preprocessing
 */
/** @typedef {{height: number, width: number, data: Uint8Array | Uint8ClampedArray}} Pixels red, green, blue, and nothing else */

/** Round halves to even, as Python does. @param {number} x */
function pythonRound(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 === 0 ? low : low + 1;
}

/** Height and width after the resize. @param {Preprocessing} preprocessing @param {number} height @param {number} width @returns {[number, number]} */
function sizeFor(preprocessing, height, width) {
  const { fit, box } = preprocessing;
  if (fit === "none") return [height, width];
  if (fit === "exact" && box) return [box[0], box[1]];
  if (fit === "within" && box) {
    const scale = Math.min(box[0] / height, box[1] / width);
    return [Math.max(1, Math.trunc(height * scale)), Math.max(1, Math.trunc(width * scale))];
  }
  const short = Math.min(height, width), long = Math.max(height, width);
  let side = preprocessing.short_side;
  if ((long / short) * side > preprocessing.long_side) side = pythonRound((preprocessing.long_side * short) / long);
  if (short === side) return [height, width];
  const other = Math.trunc((side * long) / short);
  return height <= width ? [Math.max(1, side), Math.max(1, other)] : [Math.max(1, other), Math.max(1, side)];
}

const FILTERS = {
  bilinear: { support: 1, weight: (/** @type {number} */ x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    weight: (/** @type {number} */ x) => {
      const a = -0.5, t = Math.abs(x);
      return t < 1 ? ((a + 2) * t - (a + 3)) * t * t + 1 : t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
    },
  },
};

/**
 * First source pixel and weights of each pixel along an axis, wider where the image shrinks with antialiasing. The weights are
 * whole numbers of `bits` binary places, as torch computes with bytes.
 * @param {number} from @param {number} to @param {Preprocessing["filter"]} filter @param {boolean} antialias
 * @returns {{pixels: [number, number[]][], bits: number}}
 */
function axisWeights(from, to, filter, antialias) {
  const pixels = floatWeights(from, to, filter, antialias), most = Math.max(...pixels.flatMap(([, weights]) => weights));
  let bits = 0;
  while (bits < 22 && Math.trunc(0.5 + most * 2 ** (bits + 1)) < 1 << 15) bits++;
  const whole = (/** @type {number} */ weight) => Math.trunc(weight * 2 ** bits + (weight < 0 ? -0.5 : 0.5));
  return { pixels: pixels.map(([first, weights]) => [first, weights.map(whole)]), bits };
}

/** @param {number} from @param {number} to @param {Preprocessing["filter"]} filter @param {boolean} antialias @returns {[number, number[]][]} */
function floatWeights(from, to, filter, antialias) {
  const scale = from / to;
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    if (filter === "nearest") return [Math.min(from - 1, Math.floor(centre)), [1]];
    const { support, weight } = FILTERS[filter], wide = antialias ? Math.max(scale, 1) : 1, reach = support * wide;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5)), last = Math.min(from, Math.trunc(centre + reach + 0.5));
    const weights = Array.from({ length: last - first }, (_, k) => weight((k + first - centre + 0.5) / wide));
    const sum = weights.reduce((a, b) => a + b, 0);
    return [first, weights.map((w) => w / sum)];
  });
}

/** Resize an image; along x first, rounded to whole numbers after each axis. @param {Pixels} image @param {number} height @param {number} width @param {Preprocessing["filter"]} filter @param {boolean} [antialias] @returns {Pixels} */
function resized(image, height, width, filter, antialias = true) {
  if (image.height === height && image.width === width) return image;
  const across = axisWeights(image.width, width, filter, antialias), down = axisWeights(image.height, height, filter, antialias);
  const middle = new Uint8ClampedArray(image.height * width * 3), out = new Uint8ClampedArray(height * width * 3);
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < width; x++) {
      const [first, weights] = across.pixels[x];
      for (let c = 0; c < 3; c++) {
        let sum = half(across.bits);
        for (let k = 0; k < weights.length; k++) sum += weights[k] * image.data[3 * (y * image.width + first + k) + c];
        middle[3 * (y * width + x) + c] = sum >> across.bits;
      }
    }
  }
  for (let y = 0; y < height; y++) {
    const [first, weights] = down.pixels[y];
    for (let x = 0; x < 3 * width; x++) {
      let sum = half(down.bits);
      for (let k = 0; k < weights.length; k++) sum += weights[k] * middle[3 * width * (first + k) + x];
      out[3 * width * y + x] = sum >> down.bits;
    }
  }
  return { height, width, data: out };
}

/** Half of the last place, so that a shift rounds. @param {number} bits */
function half(bits) {
  return bits ? 1 << (bits - 1) : 0;
}

/** The input of the model: [3, h, w]. @param {Pixels} image @param {Preprocessing} preprocessing @returns {Float32Array} */
function normalised(image, preprocessing) {
  const count = image.height * image.width, out = new Float32Array(3 * count);
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < count; i++) out[c * count + i] = (image.data[3 * i + c] / 255 - preprocessing.mean[c]) / preprocessing.std[c];
  }
  return out;
}

export { sizeFor, resized, normalised };
