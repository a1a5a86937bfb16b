// The pictures, one function for each kind: (chart, figure, width) -> element. Colours are the page's own, so that they follow it.

const ACCENT = "var(--accent)";
const BASE = "var(--base)";
const GRID = "var(--line)";
const ROW_PX = 20;
const BINS = 64;
const REACH = 4;

const CHARTS = { intervals, distribution, waterfall, savings, work, roofline, load, curve, validation, trials, front, shares, heat, timeline };

/** Values with their intervals, one row each. An interval without an end runs out of the picture. */
function intervals(chart, figure, width) {
  const ticks = chart.ticks ?? [];
  const { scale, unit } = chart.unit === "s" ? timeUnit(chart.rows.map((row) => row.value)) : { scale: 1, unit: chart.unit };
  const domain = ticks.length ? nearDomain(chart) : null;
  const rows = chart.rows.map((row, y) => ({
    ...row,
    y,
    x: row.value / scale,
    x1: (row.low ?? domain?.[0] ?? row.value) / scale,
    x2: (row.high ?? domain?.[1] ?? row.value) / scale,
  }));
  const names = [...rows.map((row) => row.name), ...(ticks.length ? ["sessions"] : [])];
  const log = chart.log && rows.length > 1;
  const plain = {
    type: "linear",
    domain: domain ?? undefined,
    nice: !domain,
    grid: true,
    ticks: Math.max(3, width / 110),
    tickFormat: plainTick,
  };
  return framed(figure.title, width, {
    ...nameAxis(names, width),
    height: names.length * (ROW_PX + 4) + 60,
    marginTop: 12,
    x: {
      ...(log ? logAxis(rows.flatMap((row) => [row.x1, row.x2])) : plain),
      inset: log ? 12 : 0,
      label: `${chart.label} (${unit})`,
    },
    marks: [
      chart.band ? Plot.rectX([chart.band], { x1: (d) => d[0], x2: (d) => d[1], fill: BASE, fillOpacity: 0.22 }) : null,
      chart.reference ? Plot.ruleX([chart.reference], { stroke: "currentColor", strokeOpacity: 0.6 }) : null,
      Plot.ruleY(rows, { y: "y", x1: "x1", x2: "x2", stroke: ACCENT, strokeWidth: 3, strokeOpacity: 0.55, clip: true }),
      Plot.dot(rows, { x: "x", y: "y", r: 4, fill: ACCENT }),
      Plot.tickX(ticks, {
        x: (d) => d,
        y: () => names.length - 1,
        stroke: "currentColor",
        strokeOpacity: 0.55,
        insetTop: 5,
        insetBottom: 5,
      }),
      tip(rows, Plot.pointerY, { x: "x", y: "y" }),
    ],
  });
}

/** Room for the sessions, for what they are held against, and for intervals that are no wider than that; others run out of the picture. */
function nearDomain(chart) {
  const [low, high] = extent([chart.rows[0].value, chart.reference, ...chart.band, ...chart.ticks]);
  const reach = high - low;
  const [least, most] = extent([low, high, ...reached([chart.rows[0].low, chart.rows[0].high], low - reach, high + reach)]);
  return [least - 0.1 * (most - least), most + 0.1 * (most - least)];
}

function extent(values) {
  return [Math.min(...values), Math.max(...values)];
}

/** The ends of an interval as far as they lie within reach; an end that is missing is out of reach. */
function reached([low, high], least, most) {
  return [Math.max(low ?? least, least), Math.min(high ?? most, most)];
}

/** Sets of samples below each other: bars, ticks for the sessions, a shaded interval. */
function distribution(chart, figure, width) {
  const { scale, unit } = timeUnit(chart.sets.map((set) => set.estimate));
  const [low, high] = domainOf(chart.sets);
  const bars = chart.sets.flatMap((set, order) =>
    binned(set.samples, low, high).map((bar) => ({ ...bar, fy: set.name, order, x1: bar.x1 / scale, x2: bar.x2 / scale })),
  );
  const sets = chart.sets.map((set, order) => ({
    fy: set.name,
    order,
    outside: outsideText(set.samples, low, high),
    x: set.estimate / scale,
    x1: (set.ci[0] ?? low) / scale,
    x2: (set.ci[1] ?? high) / scale,
    text: set.text,
  }));
  const sessions = chart.sets.flatMap((set) => set.sessions.map((x) => ({ fy: set.name, x: x / scale })));
  const faceted = chart.sets.length > 1;
  const side = faceted ? { fy: "fy" } : {};
  const colour = (d) => (faceted && d.order === 0 ? BASE : ACCENT);
  return framed(figure.title, width, {
    height: faceted ? 300 : 200,
    marginTop: 12,
    marginLeft: faceted ? 76 : 12,
    x: { domain: [low / scale, high / scale], label: `${chart.label} (${unit})`, ticks: Math.max(3, width / 110) },
    y: { axis: null, domain: [-0.2, 1.05] },
    fy: faceted ? { label: null, axis: "left", padding: 0.15, domain: chart.sets.map((set) => set.name) } : undefined,
    marks: [
      Plot.rect(sets, { x1: "x1", x2: "x2", ...side, fill: colour, fillOpacity: 0.28, clip: true }),
      Plot.rectY(bars, { x1: "x1", x2: "x2", y: "y", ...side, fill: colour, fillOpacity: 0.85, insetLeft: 0.5, insetRight: 0.5 }),
      Plot.ruleY([0], { stroke: GRID }),
      Plot.ruleX(sets, { x: "x", ...side, stroke: "currentColor", strokeWidth: 1.5 }),
      Plot.ruleX(sessions, { x: "x", y1: -0.18, y2: -0.05, ...side, stroke: "currentColor", strokeOpacity: 0.7 }),
      Plot.text(sets, { frameAnchor: "top-right", ...side, text: "outside", fill: "currentColor", fillOpacity: 0.85 }),
      tip(sets, Plot.pointer, { x: "x", ...side }),
    ],
  });
}

/** Where most samples, all sessions and all but the widest intervals lie: within some interquartile ranges of the quartiles. */
function domainOf(sets) {
  const ends = sets.flatMap(({ samples, ci, sessions }) => {
    const [first, lower, upper, last] = [0, 0.25, 0.75, 1].map((share) => samples[Math.round(share * (samples.length - 1))]);
    const reach = REACH * (upper - lower);
    const near = [Math.max(first, lower - reach), Math.min(last, upper + reach)];
    return [...near, ...sessions, ...reached(ci, near[0] - reach / 4, near[1] + reach / 4)];
  });
  const [low, high] = extent(ends);
  const room = (high - low || low * 0.01) * 0.04;
  return [low - room, high + room];
}

function outsideText(samples, low, high) {
  const outside = samples.filter((sample) => sample < low || sample > high).length;
  return outside ? `${outside} of ${samples.length} drawn samples lie outside` : "";
}

/** Bars of sorted samples between two ends, the tallest of height 1. */
function binned(samples, low, high) {
  const step = (high - low) / BINS;
  const counts = new Array(BINS).fill(0);
  for (const sample of samples)
    if (sample >= low && sample < high) counts[Math.min(BINS - 1, Math.floor((sample - low) / step))] += 1;
  const tallest = Math.max(...counts, 1);
  return counts
    .map((count, index) => ({ x1: low + index * step, x2: low + (index + 1) * step, y: count / tallest }))
    .filter((bar) => bar.y > 0);
}

/** Rows of a figure's table as names, values and texts. */
function namedRows(chart, figure) {
  return figure.rows
    .map((cells) => ({
      name: textOf(cells[chart.name]),
      value: valueOf(cells[chart.value]),
      text: `${textOf(cells[chart.name])}\n${textOf(cells[chart.value])}`,
      label: textOf(cells[chart.value]),
    }))
    .filter((row) => row.value !== null);
}

/** Layers in order, each beginning where the one before it ends. */
function waterfall(chart, figure, width) {
  const { scale, unit } = timeUnit([chart.total]);
  let end = 0;
  const rows = namedRows(chart, figure).map((row, y) => {
    const x1 = end;
    end += row.value / scale;
    return { ...row, y, x1, x2: end, right: Math.max(x1, end), far: Math.max(x1, end) > (0.7 * chart.total) / scale };
  });
  const axis = nameAxis(
    rows.map((row) => row.name),
    width,
  );
  const large = rows.filter((row) => row.value > 0.04 * chart.total && width > 480);
  const label = { y: "y", text: "label", fill: "currentColor" };
  return framed(figure.title, width, {
    ...axis,
    height: rows.length * ROW_PX + 60,
    marginTop: 12,
    x: { label: `${chart.label} (${unit})`, grid: true, ticks: Math.max(3, width / 110) },
    marks: [
      Plot.barX(rows, {
        y: "y",
        x1: "x1",
        x2: "x2",
        fill: (d) => (d.name === "rest" ? BASE : ACCENT),
        insetTop: 3,
        insetBottom: 3,
      }),
      Plot.ruleX([0], { stroke: "currentColor", strokeOpacity: 0.6 }),
      Plot.ruleX([chart.total / scale], { stroke: "currentColor", strokeDasharray: "3 3", strokeOpacity: 0.6 }),
      Plot.text(
        large.filter((row) => !row.far),
        { ...label, x: "right", textAnchor: "start", dx: 6 },
      ),
      Plot.text(
        large.filter((row) => row.far),
        { ...label, x: "x1", textAnchor: "end", dx: -6 },
      ),
      tip(rows, Plot.pointerY, { x: "right", y: "y" }),
    ],
  });
}

/** What each layer saved, to the right, or lost, to the left. */
function savings(chart, figure, width) {
  const rows = namedRows(chart, figure).map((row, y) => ({ ...row, y }));
  const { scale, unit } = timeUnit(rows.map((row) => row.value));
  const axis = nameAxis(
    rows.map((row) => row.name),
    width,
  );
  return framed(figure.title, width, {
    ...axis,
    height: rows.length * ROW_PX + 60,
    marginTop: 12,
    x: { label: `${chart.label} (${unit})`, grid: true, ticks: Math.max(3, width / 110) },
    marks: [
      Plot.barX(rows, {
        y: "y",
        x: (d) => d.value / scale,
        fill: (d) => (d.value < 0 ? BASE : ACCENT),
        insetTop: 3,
        insetBottom: 3,
      }),
      Plot.ruleX([0], { stroke: "currentColor", strokeOpacity: 0.6 }),
      tip(rows, Plot.pointerY, { x: (d) => d.value / scale, y: "y" }),
    ],
  });
}

/** Layers by their work and their latency; a line from the baseline to the candidate. */
function work(chart, figure, width) {
  const drawn = figure.rows
    .map((cells) => {
      const [before, after] = [chart.before, chart.after].map((columns) => columns.map((column) => cells[column]));
      const text = `${textOf(cells[chart.name])}\n${textOf(before[0])} MACs, ${textOf(before[1])}\n→ ${textOf(after[0])} MACs, ${textOf(after[1])}`;
      return { text, x1: valueOf(before[0]), y1: valueOf(before[1]), x2: valueOf(after[0]), y2: valueOf(after[1]) };
    })
    .filter((layer) => [layer.x1, layer.y1, layer.x2, layer.y2].every((value) => value > 0));
  if (!drawn.length) return null;
  const { scale, unit } = timeUnit(drawn.map((layer) => layer.y1));
  const layers = drawn.map((layer) => ({
    text: layer.text,
    x1: layer.x1 / 1e6,
    x2: layer.x2 / 1e6,
    y1: layer.y1 / scale,
    y2: layer.y2 / scale,
  }));
  return framed(figure.title, width, {
    height: Math.min(420, width * 0.7),
    marginLeft: 56,
    inset: 12,
    x: { ...logAxis(layers.flatMap((layer) => [layer.x1, layer.x2])), label: "million MACs" },
    y: { ...logAxis(layers.flatMap((layer) => [layer.y1, layer.y2])), label: `latency (${unit})` },
    marks: [
      Plot.link(layers, { x1: "x1", y1: "y1", x2: "x2", y2: "y2", stroke: BASE, strokeOpacity: 0.8 }),
      Plot.dot(layers, { x: "x1", y: "y1", r: 4, stroke: BASE, strokeWidth: 1.5, fill: "var(--surface)" }),
      Plot.dot(layers, { x: "x2", y: "y2", r: 4, fill: ACCENT }),
      tip(layers, Plot.pointer, { x: "x2", y: "y2" }),
    ],
  });
}

/** Layers below the roofs of their device: work for each byte to the right, work a second upwards. */
function roofline(chart, figure, width) {
  const points = chart.points.map((point) => ({ ...point, y: point.y / 1e9 }));
  const slopes = chart.roofs.flatMap((roof) => roof.slopes.map((slope, order) => ({ ...roof, slope: slope / 1e9, peak: roof.peak / 1e9, order })));
  const ridges = slopes.map((roof) => roof.peak / roof.slope);
  const [least, most] = extent([...points.map((point) => point.x), ...ridges]);
  const [left, right] = [least / 2, most * 2];
  const ends = slopes.map((roof, z) => [left, roof.peak / roof.slope, right].map((x) => ({ ...roof, z, x, y: Math.min(roof.peak, roof.slope * x) })));
  const roofs = ends.flat();
  const names = ends.filter(([end]) => end.order === 0).map((end) => end.at(-1));
  const line = { x: "x", y: "y", z: "z", stroke: BASE, strokeWidth: 2 };
  return framed(figure.title, width, {
    height: Math.min(420, width * 0.7),
    marginLeft: 64,
    marginTop: 24,
    inset: 8,
    x: { ...logAxis([left, right]), label: "MACs for each byte" },
    y: { ...logAxis([...points, ...roofs].map((point) => point.y)), label: "billion MACs a second" },
    marks: [
      Plot.line(roofs.filter((roof) => roof.order === 0), line),
      Plot.line(roofs.filter((roof) => roof.order > 0), { ...line, strokeDasharray: "5 4" }),
      Plot.text(names, { x: "x", y: "y", text: "name", textAnchor: "end", dy: -9, fill: "currentColor" }),
      Plot.dot(points, { x: "x", y: "y", r: 4, fill: ACCENT }),
      tip(points, Plot.pointer, { x: "x", y: "y" }),
    ],
  });
}

/** Latency over the seconds of a load. */
function load(chart, figure, width) {
  const { scale, unit } = timeUnit(chart.points.map((point) => point.y));
  const points = chart.points.map((point) => ({ ...point, y: point.y / scale }));
  return framed(figure.title, width, {
    height: 260,
    marginLeft: 56,
    x: { label: "seconds without a pause", grid: true, ticks: Math.max(3, width / 110) },
    y: { label: `${chart.label} (${unit})`, grid: true, zero: true },
    marks: [
      Plot.ruleY([0], { stroke: GRID }),
      Plot.line(points, { x: "x", y: "y", stroke: ACCENT, strokeWidth: 1.5 }),
      Plot.dot(points, { x: "x", y: "y", r: 2, fill: ACCENT }),
      tip(points, Plot.pointer, { x: "x", y: "y" }),
    ],
  });
}
