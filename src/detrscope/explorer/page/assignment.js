// Pairs of two sets with the greatest total gain: the Hungarian method with potentials (Kuhn 1955, Munkres 1957).

/**
 * The partner of each row in an assignment of greatest total gain; -1 where it gains nothing.
 * @param {number[][]} gain 0 or more: [rows][columns]
 * @returns {number[]}
 */
function bestPairs(gain) {
  const rows = gain.length, columns = rows ? gain[0].length : 0, size = Math.max(rows, columns);
  const cost = (/** @type {number} */ i, /** @type {number} */ j) => (i < rows && j < columns ? -gain[i][j] : 0); // made square
  const ofRow = new Float64Array(size + 1), ofColumn = new Float64Array(size + 1); // potentials; index 0 is a start beside all
  const row = new Int32Array(size + 1).fill(0); // of each column, 0 for none
  for (let i = 1; i <= size; i++) {
    const least = new Float64Array(size + 1).fill(Infinity), before = new Int32Array(size + 1), seen = new Uint8Array(size + 1);
    let column = 0;
    row[0] = i;
    do { // the cheapest way from row i to a column that is free
      seen[column] = 1;
      let step = Infinity, next = 0;
      for (let j = 1; j <= size; j++) {
        if (seen[j]) continue;
        const slack = cost(row[column] - 1, j - 1) - ofRow[row[column]] - ofColumn[j];
        if (slack < least[j]) [least[j], before[j]] = [slack, column];
        if (least[j] < step) [step, next] = [least[j], j];
      }
      for (let j = 0; j <= size; j++) {
        if (seen[j]) { ofRow[row[j]] += step; ofColumn[j] -= step; } else least[j] -= step;
      }
      column = next;
    } while (row[column]);
    while (column) {
      row[column] = row[before[column]];
      column = before[column];
    }
  }
  const partners = new Array(rows).fill(-1);
  for (let j = 1; j <= columns; j++) if (row[j] <= rows && row[j] > 0 && gain[row[j] - 1][j - 1] > 0) partners[row[j] - 1] = j - 1;
  return partners;
}

export { bestPairs };
