// The data of a page: a JSON header and arrays behind it, as explorer/payload.py writes them.

/**
 * @typedef {{type: "f32" | "f16" | "u16" | "u8" | "i32", shape: number[], offset: number, low?: number, step?: number}} ArrayInfo
 * @typedef {{name: string, kind: "dense" | "deformable", heads: number, queries: number, keys: number, scale: number,
 *   pointLevels: number[], levels?: number[][], windows?: number[], extra?: number}} SiteInfo  levels: sizes of the maps of its keys, where they are not the header's;
 *   windows: rows and columns of windows of the one map, within which tokens attend; extra: tokens after queries and keys that lie on no map
 * @typedef {{format: number, by: string, model: string, source: string, scoring: "softmax" | "sigmoid", top: number,
 *   classes: {id: number, name: string}[], width: number, height: number, crop: number[], content: number[],
 *   padded: number[], levels: number[][], layers: number, queries: number, sites: SiteInfo[], modelSites: string[],
 *   leftOut: string[], edits: string[], numbers: number[] | null, tracks: number[] | null, notes: Object<string, string | number>, imageType: string, maskSize?: number[] | null,
 *   arrays: Object<string, ArrayInfo>}} Header
 */

const MAGIC = "detrpage"; // first bytes
const FORMAT = 1;

/** Numbers of all float16 values, by their bits. */
const HALVES = (() => {
  const table = new Float32Array(1 << 16);
  for (let bits = 0; bits < table.length; bits++) {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24
      : exponent < 31 ? (1 + fraction / 1024) * 2 ** (exponent - 15)
      : fraction ? NaN : Infinity;
    table[bits] = bits >> 15 ? -size : size;
  }
  return table;
})();

/** Everything about one image: header and arrays. */
class Payload {
  /** @param {ArrayBuffer} buffer bytes of a payload */
  constructor(buffer) {
    const bytes = new Uint8Array(buffer);
    if (new TextDecoder().decode(bytes.subarray(0, MAGIC.length)) !== MAGIC) throw new Error("not the data of a page");
    const length = new DataView(buffer).getUint32(MAGIC.length, true);
    const start = MAGIC.length + 4;
    /** @type {Header} */
    this.header = JSON.parse(new TextDecoder().decode(bytes.subarray(start, start + length)));
    if (this.header.format !== FORMAT) throw new Error(`data of format ${this.header.format}; this page reads ${FORMAT}`);
    this.buffer = buffer;
    this.start = start + length;
    /** @type {Map<string, Float32Array | Int32Array | Uint8Array>} */
    this.decoded = new Map();
  }

  /**
   * A payload of arrays that are in memory.
   * @param {Omit<Header, "arrays">} header
   * @param {Object<string, {shape: number[], values: Float32Array | Int32Array | Uint8Array}>} arrays
   * @returns {Payload}
   */
  static of(header, arrays) {
    const payload = Object.create(Payload.prototype);
    const infos = Object.entries(arrays).map(([name, { shape }]) => [name, { type: "f32", shape, offset: 0 }]);
    payload.header = { ...header, arrays: Object.fromEntries(infos) };
    payload.decoded = new Map(Object.entries(arrays).map(([name, { values }]) => [name, values]));
    return payload;
  }

  /** Whether there is an array of this name. @param {string} name */
  has(name) {
    return name in this.header.arrays;
  }

  /** The shape of an array. @param {string} name @returns {number[]} */
  shape(name) {
    return this.header.arrays[name].shape;
  }

  /** Numbers of an array as float32. @param {string} name @returns {Float32Array} */
  floats(name) {
    const known = this.decoded.get(name);
    if (known instanceof Float32Array) return known;
    const info = this.header.arrays[name];
    if (!info) throw new Error(`the page has no ${name}`);
    const count = info.shape.reduce((a, b) => a * b, 1), at = this.start + info.offset;
    let values;
    if (info.type === "f32") values = new Float32Array(this.buffer.slice(at, at + 4 * count));
    else if (info.type === "f16" || info.type === "u16") {
      const numbers = new Uint16Array(this.buffer.slice(at, at + 2 * count)), low = info.low ?? 0, step = info.step ?? 1;
      values = new Float32Array(count);
      if (info.type === "f16") for (let i = 0; i < count; i++) values[i] = HALVES[numbers[i]];
      else for (let i = 0; i < count; i++) values[i] = low + step * numbers[i];
    } else throw new Error(`${name}: not numbers`);
    this.decoded.set(name, values);
    return values;
  }

  /** Whole numbers of an array. @param {string} name @returns {Int32Array} */
  integers(name) {
    const known = this.decoded.get(name);
    if (known instanceof Int32Array) return known;
    const info = this.header.arrays[name], count = info.shape.reduce((a, b) => a * b, 1), at = this.start + info.offset;
    const values = info.type === "u8"
      ? Int32Array.from(new Uint8Array(this.buffer, at, count))
      : new Int32Array(this.buffer.slice(at, at + 4 * count));
    this.decoded.set(name, values);
    return values;
  }

  /** Bytes of an array. @param {string} name @returns {Uint8Array<ArrayBuffer>} */
  bytes(name) {
    const known = this.decoded.get(name);
    if (known instanceof Uint8Array) return new Uint8Array(known);
    const info = this.header.arrays[name], at = this.start + info.offset;
    return new Uint8Array(this.buffer.slice(at, at + info.shape[0]));
  }

  /** The model's index of a query: a snapshot has some of them. @param {number} query */
  numberOf(query) {
    return this.header.numbers?.[query] ?? query;
  }

  /** What names a query in the state: in a snapshot the number of the query that continues it in the last one. @param {number} query */
  keyOf(query) {
    return this.header.tracks?.[query] ?? query;
  }

  /** The query that the state names; -1 if it is not here. @param {number} key */
  queryOf(key) {
    if (this.header.tracks) return this.header.tracks.indexOf(key);
    return key >= 0 && key < this.header.queries ? key : -1;
  }

  /** The site of this name, if it is recorded. @param {string} name @returns {SiteInfo | undefined} */
  site(name) {
    return this.header.sites.find((site) => site.name === name);
  }

  /** Recorded sites of a kind, such as "decoder.cross", in the order of the layers. @param {string} kind */
  sitesOf(kind) {
    const [part, role] = kind.split(".");
    return this.header.sites.filter((site) => site.name.startsWith(`${part}.`) && site.name.endsWith(`.${role}`));
  }
}

/**
 * The payload in an element of the page: base64 of deflated bytes, in which bytes of 2-byte numbers are apart.
 * @param {string} text base64
 * @returns {Promise<Payload>}
 */
async function embeddedPayload(text) {
  const letters = atob(text.trim()), packed = new Uint8Array(letters.length);
  for (let i = 0; i < packed.length; i++) packed[i] = letters.charCodeAt(i); // far faster than Uint8Array.from
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Payload(joinPlanes(await new Response(stream).arrayBuffer()));
}

/**
 * Undo `split_planes` of payload.py: the low bytes of all 2-byte numbers come first, then the high ones.
 * @param {ArrayBuffer} buffer
 * @returns {ArrayBuffer}
 */
function joinPlanes(buffer) {
  const view = new DataView(buffer), plain = view.getUint32(0, true), pairs = view.getUint32(4, true);
  const bytes = new Uint8Array(buffer, 8), out = new Uint8Array(plain + 2 * pairs);
  out.set(bytes.subarray(0, plain));
  for (let i = 0, low = plain, high = plain + pairs; i < pairs; i++) {
    out[plain + 2 * i] = bytes[low + i];
    out[plain + 2 * i + 1] = bytes[high + i];
  }
  return out.buffer;
}

export { Payload, embeddedPayload, joinPlanes };
