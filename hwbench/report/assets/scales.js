// Units and labels of axes. Every number in words comes from the data; only ticks are written here.

const CHARACTER_PX = 7;

/** The unit in which the largest of some seconds has one to three digits before the point: {scale, unit}. */
function timeUnit(values) {
  const largest = Math.max(...values.filter(Number.isFinite).map(Math.abs), 0);
  const [scale, unit] = PAGE.units.find(([size]) => largest >= size) ?? PAGE.units.at(-1);
  return { scale, unit };
}

/** At most `room` characters, cut in the middle: the ends of a name tell most. */
function shortened(text, room) {
  if (text.length <= room) return text;
  const head = Math.floor((room - 1) / 2);
  return `${text.slice(0, head)}…${text.slice(text.length - (room - 1 - head))}`;
}

/** A band axis of names, which may repeat: its options, and the margin that its labels take. */
function nameAxis(names, width) {
  const room = Math.max(8, Math.floor((width * 0.36) / CHARACTER_PX));
  const labels = names.map((name) => shortened(name, room));
  const marginLeft = Math.ceil(Math.max(...labels.map((label) => label.length), 4) * CHARACTER_PX) + 12;
  const y = {
    type: "band",
    domain: names.map((_, index) => index),
    tickFormat: (index) => labels[index],
    tickSize: 0,
    label: null,
  };
  return { y, marginLeft };
}

/**
 * A logarithmic axis for positive values: 1, 2 and 5 of every decade, or the decades alone where there are many. It is a symmetric
 * logarithm with a negligible constant, as the labels of Plot's own leave some of the ticks unnamed.
 */
function logAxis(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)].map(Math.log10);
  const places = high - low > 3 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let decade = Math.floor(low); decade <= Math.ceil(high); decade += 1)
    ticks.push(...places.map((place) => place * 10 ** decade));
  const near = 0.05 * (high - low) + 0.02;
  const inside = ticks.filter((tick) => Math.log10(tick) >= low - near && Math.log10(tick) <= high + near);
  return {
    type: "symlog",
    constant: 10 ** low / 1e6,
    ticks: inside.length > 1 ? inside : [10 ** low, 10 ** high],
    tickFormat: plainTick,
    grid: true,
  };
}

/** A number of an axis, without trailing zeros. */
function plainTick(value) {
  return value.toLocaleString("en", { maximumSignificantDigits: 4, useGrouping: false });
}

/** What all pictures have in common. */
function framed(label, width, options) {
  return Plot.plot({
    width,
    marginRight: 24,
    marginTop: 28,
    marginBottom: 38,
    ariaLabel: label,
    style: {
      background: "transparent",
      color: "var(--ink)",
      fontFamily: "inherit",
      fontSize: "12px",
      fontVariantNumeric: "tabular-nums",
    },
    ...options,
  });
}

/** A tip with the texts of the data beside the pointer. */
function tip(data, pointer, channels) {
  return Plot.tip(
    data,
    pointer({ ...channels, title: "text", fill: "var(--surface)", stroke: "var(--line)", fontSize: 12, lineWidth: 28 }),
  );
}
