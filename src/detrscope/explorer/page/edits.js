// Edits as text, in the grammar of `--edit`.

/**
 * What one chooses in the form.
 * @typedef {{site: string, heads: string, queries: string, levels: string, points: string}} Selection
 */

/** A list of numbers without spaces. @param {string} text */
function numbers(text) {
  return text.replace(/\s+/g, "");
}

/** The selections as words, each followed by a space. @param {Selection} chosen */
function words(chosen) {
  return /** @type {("heads" | "queries" | "points" | "levels")[]} */ (["heads", "queries", "points", "levels"])
    .filter((name) => numbers(chosen[name]))
    .map((name) => `${name} ${numbers(chosen[name])} `)
    .join("");
}

/** The edit that scales weights. @param {Selection} chosen @param {number} factor */
function scaleEdit(chosen, factor) {
  return `${chosen.site}: ${words(chosen)}x${factor}`;
}

/** The edit that hides or favours a region. @param {Selection} chosen @param {number[]} region @param {number | null} score null hides */
function regionEdit(chosen, region, score) {
  const box = region.map((x) => Math.round(x * 10) / 10).join(",");
  return score === null ? `${chosen.site}: hide ${words(chosen)}region ${box}` : `${chosen.site}: favour ${words(chosen)}region ${box} ${score < 0 ? "" : "+"}${score}`;
}

/** The edit after which the other queries no longer see a query. @param {number} query */
function hideQueryEdit(query) {
  return `decoder.*.self: hide keys ${query}`;
}

/** The edit that takes the attention of another picture: all of it, or its values. @param {string} site @param {string} part */
function swapEdit(site, part) {
  return `swap ${site}${part ? ` ${part}` : ""}`;
}

/** Whether an edit takes something from another picture. @param {string} edit */
function isSwap(edit) {
  return /^swap\s/.test(edit);
}

/** The file that `--edits` reads; swaps need the other picture and are no part of it. @param {string[]} edits */
function editsFile(edits) {
  return JSON.stringify({ format: 1, edits }, null, 1) + "\n";
}

export { swapEdit, isSwap, scaleEdit, regionEdit, hideQueryEdit, editsFile };
