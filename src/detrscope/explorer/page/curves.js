// Metrics over a training, as small charts beside each other; a click on one goes to that step.

import { CLASS_COLOURS, shortNumber } from "./colours.js";

/** @typedef {{label: string, points: [number, number][], dashed: boolean}} Line epoch and value */
/** @typedef {{title: string, lines: Line[]}} Chart */

const WIDTH = 230, HEIGHT = 92, LEFT = 34, BELOW = 14; // units of the drawing

/** @param {string} tag @param {Record<string, string | number>} attributes @param {string} [text] */
function drawn(tag, attributes, text = "") {
  const kind = document.getElementById("chart")?.namespaceURI ?? null; // that of an svg element of the page
  const element = document.createElementNS(kind, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.textContent = text;
  return element;
}

/** The smallest of 1, 2, 2.5, 5 times a power of ten that is not below a number. @param {number} value */
function niceAbove(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * /** @type {number} */ ([1, 2, 2.5, 5, 10].find((step) => step * power >= value * 0.999));
}

/** The last value of a line up to an epoch; null before its first. @param {Line} line @param {number} epoch */
function valueAt(line, epoch) {
  let last = null;
  for (const [x, y] of line.points) if (x <= epoch + 1e-6) last = y;
  return last;
}

/**
 * One chart.
 * @param {Chart} chart @param {Chart | undefined} other the same of another run, drawn thinner and broken
 * @param {number} last epoch at the right edge @param {number} epoch that is marked @param {number | null} otherEpoch
 * @param {(epoch: number) => void} onPick
 */
function drawChart(chart, other, last, epoch, otherEpoch, onPick) {
  const all = [...chart.lines, ...(other?.lines ?? [])].flatMap((line) => line.points.map(([, y]) => y));
  const top = niceAbove(Math.max(0, ...all)), high = chart.title.includes("%") ? Math.min(100, top) : top;
  const x = (/** @type {number} */ at) => LEFT + ((WIDTH - LEFT - 2) * at) / (last || 1);
  const y = (/** @type {number} */ value) => 4 + (HEIGHT - BELOW - 4) * (1 - value / high);
  const now = chart.lines.map((line) => {
    const value = valueAt(line, epoch), theirs = other?.lines.find(({ label }) => label === line.label);
    const beside = theirs && otherEpoch !== null ? valueAt(theirs, otherEpoch) : null;
    return [line.label, value === null ? "-" : shortNumber(value), beside === null ? "" : `(${shortNumber(beside)})`].filter(Boolean).join(" ");
  });
  const svg = /** @type {SVGSVGElement} */ (drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${chart.title}: ${now.join(", ")}` }));
  for (const value of [0, high / 2, high]) {
    svg.append(drawn("line", { x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value), class: "grid" }));
    svg.append(drawn("text", { x: LEFT - 4, y: y(value) + 3, "text-anchor": "end" }, shortNumber(value)));
  }
  svg.append(drawn("text", { x: LEFT, y: HEIGHT - 2 }, "0"), drawn("text", { x: WIDTH, y: HEIGHT - 2, "text-anchor": "end" }, `epoch ${shortNumber(last)}`));
  const mark = (/** @type {number} */ at, /** @type {string} */ name) => svg.append(drawn("line", { x1: x(at), x2: x(at), y1: 4, y2: HEIGHT - BELOW, class: name }));
  if (otherEpoch !== null) mark(Math.min(otherEpoch, last), "mark beside");
  mark(epoch, "mark");
  const add = (/** @type {Line} */ line, /** @type {number} */ index, /** @type {boolean} */ beside) => svg.append(drawn("polyline", {
    points: line.points.map(([at, value]) => `${x(at).toFixed(2)},${y(value).toFixed(2)}`).join(" "), fill: "none",
    stroke: CLASS_COLOURS[index % CLASS_COLOURS.length], "stroke-width": beside ? 1 : 1.6, "stroke-dasharray": beside ? "1.5 2" : line.dashed ? "5 3" : "none",
  }));
  other?.lines.forEach((line) => add(line, Math.max(0, chart.lines.findIndex(({ label }) => label === line.label)), true));
  chart.lines.forEach((line, index) => add(line, index, false));
  svg.addEventListener("click", (event) => {
    const rect = svg.getBoundingClientRect(), at = ((event.clientX - rect.left) / rect.width) * WIDTH;
    onPick(Math.min(last, Math.max(0, ((at - LEFT) / (WIDTH - LEFT - 2)) * last)));
  });
  const figure = document.createElement("figure"), caption = document.createElement("figcaption"), values = document.createElement("p");
  caption.textContent = chart.title;
  now.forEach((text, index) => {
    const part = document.createElement("span");
    part.textContent = text;
    part.style.borderBottom = `3px ${chart.lines[index].dashed ? "dashed" : "solid"} ${CLASS_COLOURS[index % CLASS_COLOURS.length]}`;
    values.append(part);
  });
  figure.append(caption, values, svg);
  return figure;
}

export { drawChart, niceAbove, valueAt };
