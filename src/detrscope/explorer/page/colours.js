// Colours of weights and classes.

/** Okabe and Ito's colours, told apart with every common kind of colour blindness. */
const CLASS_COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#aa3377"];

/** Colour maps, even in lightness: red, green, blue at equal steps from low to high. */
const COLOUR_MAPS = {
  inferno: ["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4"],
  viridis: ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"],
  cividis: ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"],
  grey: ["#000000", "#1c1c1c", "#393939", "#555555", "#717171", "#8e8e8e", "#aaaaaa", "#c6c6c6", "#e3e3e3", "#ffffff"],
};
/** @typedef {keyof typeof COLOUR_MAPS} ColourMap */
/** @typedef {"even" | "peak" | "one"} Norm */

const DARKEST = 0.25; // start of a colour map over an image: its black would read as shadow
const TIMES_EVEN = 4; // full colour takes at least so many times even attention

/** @param {string} hex @returns {[number, number, number]} */
function channels(hex) {
  const at = (/** @type {number} */ start) => parseInt(hex.slice(start, start + 2), 16);
  return [at(1), at(3), at(5)];
}

/** 256 colours of a map, red, green and blue. @param {ColourMap} name @returns {Uint8ClampedArray} */
function colourTable(name) {
  const stops = COLOUR_MAPS[name].map(channels), table = new Uint8ClampedArray(256 * 3);
  for (let i = 0; i < 256; i++) {
    const at = (DARKEST + ((1 - DARKEST) * i) / 255) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
    for (let c = 0; c < 3; c++) table[3 * i + c] = stops[low][c] + (at - low) * (stops[low + 1][c] - stops[low][c]);
  }
  return table;
}

/**
 * Range of weights that the colours cover.
 * @param {Float32Array} values @param {Norm} norm "even": from even attention up, so that a flat map shows nothing; "peak": from 0
 *   to the peak; "one": from 0 to 1
 * @returns {{low: number, high: number, words: string}}
 */
function colourRange(values, norm) {
  let peak = 0, mass = 0;
  for (const value of values) {
    if (value > peak) peak = value;
    mass += value;
  }
  if (norm === "one") return { low: 0, high: 1, words: "colours from 0 to 1" };
  if (norm === "peak") return { low: 0, high: peak || 1e-9, words: `colours from 0 to the peak, ${shortNumber(peak)}` };
  const even = mass / values.length, high = Math.max(peak, TIMES_EVEN * even) || 1e-9;
  const top = peak >= TIMES_EVEN * even ? `the peak, ${shortNumber(peak)}` : `${TIMES_EVEN} times that (the peak is ${shortNumber(peak)})`;
  return { low: even, high, words: `colours from even attention, ${shortNumber(even)}, to ${top}` };
}

/**
 * Pixels of a grid of weights, transparent where there is none.
 * @param {Float32Array} values @param {{low: number, high: number}} range @param {ColourMap} map @param {number} opacity of the greatest weight
 * @returns {Uint8ClampedArray<ArrayBuffer>} red, green, blue, alpha
 */
function colourPixels(values, range, map, opacity) {
  const table = colourTable(map), pixels = new Uint8ClampedArray(values.length * 4);
  values.forEach((value, i) => {
    const strength = Math.min(1, Math.max(0, (value - range.low) / (range.high - range.low)));
    pixels.set(table.subarray(3 * Math.round(strength * 255), 3 * Math.round(strength * 255) + 3), 4 * i);
    pixels[4 * i + 3] = 255 * opacity * strength * (2 - strength);
  });
  return pixels;
}

/** Colour of a class. @param {number} index */
function classColour(index) {
  return CLASS_COLOURS[index % CLASS_COLOURS.length];
}

/** Black or white, whichever reads better on a colour. @param {string} hex */
function textColourOn(hex) {
  const [red, green, blue] = channels(hex);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#000" : "#fff";
}

/** A number with three digits. @param {number} value */
function shortNumber(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 0.001 && size < 1000 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}

export { CLASS_COLOURS, COLOUR_MAPS, colourTable, colourRange, colourPixels, classColour, textColourOn, shortNumber };
