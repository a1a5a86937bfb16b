// Pictures of lookup tables and of searches.

/** Latency of one layer over its width: what the table answers, and what was measured. */
function curve(chart, figure, width) {
  const { scale, unit } = timeUnit(chart.lines.flatMap((line) => line.y));
  const points = chart.lines.flatMap((line, order) =>
    line.x.map((x, i) => ({
      x,
      y: line.y[i] / scale,
      low: line.low[i] / scale,
      high: line.high[i] / scale,
      name: line.name,
      order,
    })),
  );
  const dots = chart.lines.flatMap((line, order) =>
    line.dots.map(([x, y]) => ({ x, y: y / scale, order, text: `${x} channels, measured\n${plainTick(y / scale)} ${unit}` })),
  );
  const [first, last] = [Math.min(...points.map((p) => p.x)), Math.max(...points.map((p) => p.x))];
  const steps = [];
  for (let at = Math.ceil(first / chart.step) * chart.step; at <= last; at += chart.step) steps.push(at);
  const colour = (d) => (d.order ? BASE : ACCENT);
  const ends = (order) => points.filter((point) => point.order === order).slice(-1);
  const name = { x: "x", y: "y", text: "name", textAnchor: "end", fill: "currentColor" };
  const drawn = framed(`Latency of ${chart.title}`, width, {
    height: 210,
    marginLeft: 48,
    marginRight: 12,
    x: { label: chart.axis, ticks: Math.min(5, last - first || 1), tickFormat: plainTick },
    y: { label: unit, zero: true, grid: true, ticks: 4, tickFormat: plainTick },
    marks: [
      chart.step > 1 && steps.length <= 48 ? Plot.ruleX(steps, { stroke: GRID }) : null,
      Plot.areaY(points, { x: "x", y1: "low", y2: "high", z: "name", fill: colour, fillOpacity: 0.18 }),
      Plot.lineY(points, { x: "x", y: "y", z: "name", stroke: colour, strokeWidth: 1.5 }),
      Plot.dot(dots, { x: "x", y: "y", r: 2.2, fill: colour }),
      ...(chart.lines.length > 1 ? [0, 1].map((order) => Plot.text(ends(order), { ...name, dy: order ? 12 : -10 })) : []),
      tip(dots, Plot.pointer, { x: "x", y: "y" }),
    ],
  });
  return el("div", { class: "panel" }, el("p", { class: "key" }, chart.title), drawn);
}

/** Predicted against measured latency with intervals; on the line is right. */
function validation(chart, figure, width) {
  const { scale, unit } = timeUnit(chart.points.map((point) => point.x));
  const points = chart.points.map((point) => ({
    text: point.text,
    x: point.x / scale,
    y: point.y / scale,
    low: point.low / scale,
    high: point.high / scale,
  }));
  const ends = points.flatMap((point) => [point.x, point.low, point.high]);
  const room = (Math.max(...ends) - Math.min(...ends) || 1) * 0.05;
  const domain = [Math.min(...ends) - room, Math.max(...ends) + room];
  const side = Math.min(width, 460);
  return framed(figure.title, side, {
    height: side,
    marginLeft: 56,
    x: { label: `measured (${unit})`, domain, grid: true, ticks: 5 },
    y: { label: `predicted (${unit})`, domain, grid: true, ticks: 5 },
    marks: [
      Plot.line(
        [domain, domain].map((pair, index) => pair[index]),
        { x: (d) => d, y: (d) => d, stroke: "currentColor", strokeOpacity: 0.5 },
      ),
      Plot.ruleX(points, { x: "x", y1: "low", y2: "high", stroke: ACCENT, strokeOpacity: 0.6, strokeWidth: 2 }),
      Plot.dot(points, { x: "x", y: "y", r: 3.5, fill: ACCENT }),
      tip(points, Plot.pointer, { x: "x", y: "y" }),
    ],
  });
}

/** What each trial was worth, and the best so far. */
function trials(chart, figure, width) {
  const points = chart.points.map((point) => ({ ...point, own: chart.own.includes(point.part) }));
  let best = -Infinity;
  const line = points.filter((point) => point.own).map((point) => ({ x: point.x, y: (best = Math.max(best, point.y)) }));
  return framed(figure.title, width, {
    height: 300,
    marginLeft: 56,
    x: { label: "trial", ticks: Math.max(3, width / 110) },
    y: {
      label: chart.label,
      grid: true,
      tickFormat: chart.percent ? (d) => `${plainTick(100 * d)} %` : plainTick,
      ticks: 5,
      nice: true,
    },
    marks: [
      Plot.lineY(line, { x: "x", y: "y", curve: "step-after", stroke: ACCENT, strokeOpacity: 0.7 }),
      Plot.dot(points, {
        x: "x",
        y: "y",
        r: 3,
        fill: (d) => (d.own ? ACCENT : "var(--surface)"),
        stroke: (d) => (d.own ? ACCENT : BASE),
        strokeWidth: 1.5,
      }),
      Plot.dot(
        points.filter((point) => point.chosen),
        { x: "x", y: "y", r: 8, stroke: "currentColor", strokeWidth: 1.5 },
      ),
      tip(points, Plot.pointer, { x: "x", y: "y" }),
    ],
  });
}

/** Networks by their cost and quality; a line joins those that no other one beats. */
function front(chart, figure, width) {
  const points = chart.points.filter((point) => point.x !== null && point.y !== null);
  const line = points.filter((point) => point.on_front).sort((a, b) => a.x - b.x);
  const share = (d) => `${plainTick(100 * d)} %`;
  return framed(figure.title, width, {
    height: 320,
    marginLeft: 56,
    inset: 12,
    x: { label: chart.cost, grid: true, tickFormat: share, ticks: Math.max(3, width / 110), nice: true },
    y: { label: shortened(chart.label, Math.floor(width / CHARACTER_PX) - 4), grid: true, tickFormat: chart.plain ? plainTick : share, ticks: 5, nice: true },
    marks: [
      Plot.lineY(line, { x: "x", y: "y", stroke: ACCENT, strokeOpacity: 0.7 }),
      Plot.dot(points, {
        x: "x",
        y: "y",
        r: 5,
        fill: (d) => (d.on_front ? ACCENT : "var(--surface)"),
        stroke: (d) => (d.on_front ? ACCENT : BASE),
        strokeWidth: 1.5,
      }),
      tip(points, Plot.pointer, { x: "x", y: "y" }),
    ],
  });
}

/** Share that stays of each layer. */
function shares(chart, figure, width) {
  const rows = namedRows(chart, figure).map((row, y) => ({ ...row, y }));
  const axis = nameAxis(
    rows.map((row) => row.name),
    width,
  );
  return framed(figure.title, width, {
    ...axis,
    height: rows.length * ROW_PX + 60,
    marginTop: 12,
    x: { label: chart.label, domain: [0, 1], grid: true, tickFormat: (d) => `${plainTick(100 * d)} %`, ticks: 5 },
    marks: [
      Plot.barX(rows, { y: "y", x1: 0, x2: 1, fill: GRID, fillOpacity: 0.6, insetTop: 4, insetBottom: 4 }),
      Plot.barX(rows, { y: "y", x: "value", fill: ACCENT, insetTop: 4, insetBottom: 4 }),
      Plot.ruleX([0], { stroke: "currentColor", strokeOpacity: 0.6 }),
      tip(rows, Plot.pointerY, { x: "value", y: "y" }),
    ],
  });
}
