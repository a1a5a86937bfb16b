// Pictures of many cells and of many days: a matrix as a heat map, a latency over time.

const DEEPEST = 0.45; // text on the darkest cell keeps a contrast of 4.5:1
const CELL_PX = 46;
const NARROWEST_PX = 88;

/**
 * A row for each model, a column for each way of measuring; the deeper the colour, the further from the first model. On a narrow screen
 * the columns stand below each other.
 */
function heat(chart, figure, width) {
  const { y, marginLeft } = nameAxis(chart.models, width);
  const most = Math.max(...chart.cells.map((cell) => Math.abs(cell.log ?? 0)), 0.1);
  const abreast = Math.max(1, Math.floor((width - marginLeft - 24) / NARROWEST_PX));
  const pictures = [];
  for (let first = 0; first < chart.columns.length; first += abreast) {
    const shown = chart.columns.slice(first, first + abreast);
    const cells = chart.cells
      .filter((cell) => cell.column >= first && cell.column < first + shown.length)
      .map((cell) => ({ ...cell, column: cell.column - first }));
    pictures.push(heatPart(chart.models.length, shown, cells, { title: figure.title, width, y, marginLeft, most }));
  }
  return pictures.length === 1 ? pictures[0] : el("div", {}, ...pictures);
}

/** Those columns of a heat map that stand side by side. */
function heatPart(models, columns, cells, { title, width, y, marginLeft, most }) {
  const room = Math.max(3, Math.floor((width - marginLeft - 24) / columns.length / CHARACTER_PX) - 1);
  const lines = Math.max(...columns.map((column) => column.length));
  const fitted = (texts) => texts.filter(Boolean).map((text) => shortened(text, room)).join("\n");
  const place = { x: "column", y: "row" };
  return framed(title, width, {
    marginLeft,
    marginTop: 14 + 15 * lines,
    marginBottom: 8,
    height: 22 + 15 * lines + CELL_PX * models,
    y,
    x: {
      type: "band",
      domain: columns.map((_, index) => index),
      axis: "top",
      tickFormat: (index) => fitted(columns[index]),
      tickSize: 0,
      label: null,
    },
    marks: [
      Plot.cell(cells, { ...place, fill: "var(--surface)", stroke: GRID, inset: 1 }),
      Plot.cell(
        cells.filter((cell) => cell.log !== null),
        {
          ...place,
          fill: (cell) => (cell.log < 0 ? "var(--notice)" : ACCENT),
          fillOpacity: (cell) => (DEEPEST * Math.abs(cell.log)) / most,
          inset: 1,
        },
      ),
      Plot.text(cells, { ...place, text: (cell) => fitted([cell.speedup, cell.latency]), fill: "currentColor" }),
      tip(cells, Plot.pointer, place),
    ],
  });
}

/** A latency over time: a dot with its interval for each measurement, a line for the mean between changes, a mark at each change. */
function timeline(chart, figure, width) {
  const { scale, unit } = timeUnit(chart.points.map((point) => point.value));
  const points = chart.points.map((point) => ({
    text: point.text,
    x: new Date(point.ms),
    y: point.value / scale,
    y1: (point.low ?? point.value) / scale,
    y2: (point.high ?? point.value) / scale,
  }));
  const means = chart.parts.flatMap((part, index) =>
    [part.from_ms, part.to_ms].map((ms) => ({ x: new Date(ms), y: part.mean / scale, index })),
  );
  const changes = chart.changes.map((change) => ({ x: new Date(change.ms), text: change.text }));
  return framed(figure.title, width, {
    height: 300,
    marginLeft: 56,
    marginTop: 34,
    x: { type: "utc", label: "measured (UTC)", ticks: Math.max(2, width / 140), inset: 12 },
    y: { label: `${chart.label} (${unit})`, grid: true, ticks: 5, nice: true, tickFormat: plainTick },
    marks: [
      Plot.ruleX(changes, { x: "x", stroke: "var(--notice)", strokeDasharray: "3 3" }),
      Plot.text(changes, { x: "x", text: "text", frameAnchor: "top", dy: -12, fill: "var(--notice)" }),
      Plot.lineY(means, { x: "x", y: "y", z: "index", stroke: "currentColor", strokeOpacity: 0.7, strokeWidth: 1.5 }),
      Plot.ruleX(points, { x: "x", y1: "y1", y2: "y2", stroke: ACCENT, strokeOpacity: 0.6 }),
      Plot.dot(points, { x: "x", y: "y", r: 3.5, fill: ACCENT }),
      tip(points, Plot.pointer, { x: "x", y: "y" }),
    ],
  });
}
