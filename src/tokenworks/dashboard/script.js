// The dashboard: asks the gateway for /observe/... every two seconds and draws what comes back. It computes no figure
// itself: what it shows is what the ledger's own functions gave, so that it equals `tokenworks table` to the digit.
//
// Everything from outside becomes text through `h`, which makes elements and text nodes and never parses markup: a tenant
// may be called <script>. Order of this file: state, elements, figures, charts, one drawing per section, explain, the loop.

const POLL_MS = 2000;
const SLOW_POLL_MS = 10000; // of what walks the whole window: diagnosis and drift
const WINDOWS = ["5m", "15m", "1h", "6h", "24h", "7d"];
const DIMENSIONS = ["scenario", "tenant", "model", "version", "worker"];
const PRESETS = ["overview", "online", "offline", "realtime"];
const ORDERS = ["latest", "slowest", "failed"];

// ---------------------------------------------------------------------------------------------------------------- state

const query = new URLSearchParams(location.search);
const known = (name, values, otherwise) => (values.includes(query.get(name)) ? query.get(name) : otherwise);
const isTag = (by) => by.startsWith("tag:") && by !== "tag:";
const state = {
  since: known("since", WINDOWS, "15m"),
  by: isTag(query.get("by") ?? "") ? query.get("by") : known("by", DIMENSIONS, "scenario"),
  preset: known("preset", PRESETS, "overview"),
  order: known("order", ORDERS, "latest"),
  where: query.getAll("where").filter((condition) => condition.includes("=")),
  limit: 12, // requests shown
  isPaused: false,
  hasTrends: query.get("trends") === "yes", // the charts of the table's columns
  hasAllFindings: false,
  open: new Set(), // findings that somebody reads in full, by rule
  currency: "USD",
  successRatio: 0, // what the objectives promise; until it is known nothing is below it
  incidents: [],
  series: null,
};

function remember() {
  const wanted = new URLSearchParams();
  for (const name of ["since", "by", "preset", "order"]) wanted.set(name, state[name]);
  if (state.hasTrends) wanted.set("trends", "yes");
  for (const condition of state.where) wanted.append("where", condition);
  history.replaceState(null, "", `${location.pathname}?${wanted}${location.hash}`);
}

/** What to ask: the window and the filter, and whatever else this question needs. */
function asking(endpoint, more = {}, isFiltered = true) {
  const wanted = new URLSearchParams({ since: state.since, ...more });
  if (isFiltered) for (const condition of state.where) wanted.append("where", condition);
  return `/observe/${endpoint}?${wanted}`;
}

// ------------------------------------------------------------------------------------------------------------- elements

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

/** An element; strings among its children become text. `style` holds CSS properties, `on...` are listeners. */
function h(tag, attributes = {}, ...children) {
  return dressed(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return dressed(document.createElementNS(SVG, tag), attributes, children);
}

function dressed(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "style") for (const [property, css] of Object.entries(value)) element.style.setProperty(property, css);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...shown(children));
  return element;
}

/** Children as they may be written: lists in lists, and nothing where there is nothing to show. */
const shown = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

/** Put children into a container; what had the focus keeps it, by its `data-key`. */
function fill(container, ...children) {
  const key = container.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  container.replaceChildren(...shown(children));
  if (key !== undefined) focusOn(container, key);
}

function focusOn(container, key) {
  [...container.querySelectorAll("[data-key]")].find((element) => element.dataset.key === key)?.focus({ preventScroll: true });
}

function empty(title, text, command) {
  return h("div", { class: "empty" }, h("strong", {}, title), text && h("span", {}, text), command && h("code", {}, command));
}

/** Buttons of which one is pressed. */
function choice(container, values, name, onChange) {
  fill(
    container,
    values.map((value) =>
      h("button", {
        type: "button",
        "data-key": `${name}-${value}`,
        "aria-pressed": String(state[name] === value),
        onclick: () => {
          state[name] = value;
          choice(container, values, name, onChange);
          remember();
          onChange();
        },
      }, value),
    ),
  );
}

const chip = (text, kind = "") => h("span", { class: `chip ${kind}` }, text);
/** Parts of a whole, side by side: [kind, size] each, of whatever unit. */
function stacked(parts, label) {
  const whole = parts.reduce((sum, [, size]) => sum + size, 0) || 1; // flex-grow must sum to 1 or more to fill the bar
  return h("div", { class: "stack", role: "img", "aria-label": label },
    parts.map(([kind, size]) => h("i", { "data-kind": kind, style: { flex: `${size / whole} 0 0px` } })));
}
const legend = (kinds) => kinds.map(([kind, label]) => h("span", { "data-kind": kind }, label));

// -------------------------------------------------------------------------------------------------------------- figures

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const NONE = "–";

/** Three digits that count; whole numbers in full. These functions say what `observe.units` says; a test compares them. */
function digits(value) {
  return value !== 0 && Math.abs(value) < 1e-4 ? value.toExponential(2) : plain(value);
}

/** The same without powers of ten, however small. */
function plain(value) {
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const rounded = Math.abs(value) < 1000 ? Number(value.toPrecision(3)) : Math.round(value);
  const places = Number.isInteger(rounded) ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(rounded))));
  return rounded.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
}

const DURATIONS = [[1e-3, 1e-6, "µs"], [1, 1e-3, "ms"], [120, 1, "s"], [7200, 60, "min"], [172800, 3600, "h"], [Infinity, 86400, "d"]];

function seconds(value) {
  if (!isNumber(value)) return NONE;
  if (value === 0) return "0 s";
  const [, size, unit] = DURATIONS.find(([below]) => Math.abs(value) < below);
  return `${digits(value / size)} ${unit}`;
}

const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

function bytes(value) {
  if (!isNumber(value)) return NONE;
  let at = 0;
  for (; Math.abs(value) >= 1024 && at < BINARY.length - 1; at += 1) value /= 1024;
  return `${digits(value)} ${BINARY[at]}`;
}

/** Never 100 % or 0 % for what is not. */
function percent(value) {
  if (!isNumber(value)) return NONE;
  for (const places of [1, 2, 3]) {
    const text = (100 * value).toFixed(places);
    if (value === 0 || value === 1 || ![0, 100].includes(Math.abs(Number(text)))) return `${text}%`;
  }
  return value < 0.5 ? "~0%" : "~100%";
}

const count = (value) => (isNumber(value) ? value.toLocaleString("en", { maximumFractionDigits: 0 }) : NONE);
const number = (value) => (isNumber(value) ? digits(value) : NONE);

function money(value) {
  if (!isNumber(value)) return NONE;
  try {
    const format = new Intl.NumberFormat("en", { style: "currency", currency: state.currency, minimumSignificantDigits: Number.isInteger(value) ? 1 : 3, maximumSignificantDigits: 3 });
    return format.format(value);
  } catch {
    return `${plain(value)} ${state.currency}`; // a currency that is none of ISO 4217's: credits, say
  }
}

const HOUR = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const clock = (at_s) => new Date(at_s * 1000).toLocaleTimeString("en", { ...HOUR, second: "2-digit" });
const moment = (at_s) => new Date(at_s * 1000).toLocaleString("en", { day: "numeric", month: "short", ...HOUR });
/** On an axis, and in a list of what lies in the window: no more than tells two moments apart. */
const when = (at_s) => (isLongWindow() ? moment(at_s) : clock(at_s));
const tick = (at_s) => (isLongWindow() ? moment(at_s) : new Date(at_s * 1000).toLocaleTimeString("en", HOUR));
const isLongWindow = () => ["24h", "7d"].includes(state.since);

// --------------------------------------------------------------------------------------------------------------- charts

/** A line chart: `lines` are {key, label, kind}; the caption shows the latest values, or those under the pointer. */
class Chart {
  constructor(title, format, lines, { isArea = false, help } = {}) {
    Object.assign(this, { title, format, lines, isArea, points: [], at: null });
    this.keys = lines.map((line) => h("b"));
    this.when = h("span", { class: "when" });
    this.plot = svg("svg", { role: "img", tabindex: "0" });
    this.figure = h("figure", { class: "panel chart" },
      h("figcaption", {}, h("div", { class: "title" }, h("h3", { title: help }, title), this.when),
        h("div", {}, lines.map((line, index) => h("span", { class: `key ${line.kind}` }, `${line.label} `, this.keys[index])))),
      this.plot);
    this.plot.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.plot.addEventListener("pointerleave", () => this.show(null));
    this.plot.addEventListener("blur", () => this.show(null));
    this.plot.addEventListener("keydown", (event) => this.step(event));
    new ResizeObserver(() => this.draw()).observe(this.figure);
  }

  update(series) {
    this.points = series.points;
    this.draw();
  }

  point(x) {
    const share = (x - this.left) / Math.max(1, this.width - this.left);
    this.show(Math.max(0, Math.min(this.points.length - 1, Math.round(share * (this.points.length - 1)))));
  }

  step(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !this.points.length) return;
    event.preventDefault();
    this.show(Math.max(0, Math.min(this.points.length - 1, (this.at ?? this.points.length - 1) + by)));
  }

  show(at) {
    this.at = at;
    this.draw();
  }

  draw() {
    const [width, height, bottom] = [this.plot.clientWidth, this.plot.clientHeight || 150, 18];
    if (!width) return;
    const values = this.points.flatMap((point) => this.lines.map((line) => point[line.key])).filter(isNumber);
    const most = Math.max(0, ...values);
    const top = this.format === percent && most > 0.5 && most <= 1 ? 1 : niceTop(most);
    const ticks = [0, top / 2, top].map((value) => [value, this.format(value)]);
    this.left = 12 + 6.4 * Math.max(...ticks.map(([, text]) => text.length));
    this.width = width;
    const last = Math.max(1, this.points.length - 1);
    const x = (index) => this.left + ((width - this.left - 4) * index) / last;
    const y = (value) => 8 + (height - bottom - 8) * (1 - value / (top || 1));
    fill(this.plot,
      ticks.map(([value, text]) => [
        svg("line", { class: "grid", x1: this.left, x2: width, y1: y(value), y2: y(value) }),
        svg("text", { x: this.left - 8, y: y(value) + 4, "text-anchor": "end" }, text)]),
      this.times(x, height),
      this.incidents(x, height - bottom),
      this.lines.map((line) => this.line(line, x, y)),
      this.cross(x, y, height - bottom));
    this.caption();
  }

  times(x, height) {
    if (!this.points.length) return [];
    const last = this.points.length - 1;
    return [[0, "start"], [last >> 1, "middle"], [last, "end"]].map(([index, anchor]) =>
      svg("text", { x: x(index), y: height - 3, "text-anchor": anchor }, tick(this.points[index].at_s)));
  }

  /** Where something happened to the system: a worker lost, a gateway started. */
  incidents(x, bottom) {
    if (this.points.length < 2) return [];
    const [from_s, step_s] = [this.points[0].at_s, this.points[1].at_s - this.points[0].at_s];
    const last = this.points.length - 1;
    return state.incidents.map((each) => [each, (each.at_s - from_s) / step_s]).filter(([, index]) => index >= 0 && index <= last)
      .map(([each, index]) => svg("line", { class: isLoss(each) ? "mark loss" : "mark", x1: x(index), x2: x(index), y1: 8, y2: bottom },
        svg("title", {}, `${clock(each.at_s)} ${each.kind} ${each.subject}`)));
  }

  line(line, x, y) {
    const runs = [];
    let run = [];
    this.points.forEach((point, index) => {
      if (isNumber(point[line.key])) run.push([x(index), y(point[line.key])]);
      else if (run.length) [runs[runs.length], run] = [run, []];
    });
    if (run.length) runs.push(run);
    const text = (points) => points.map(([px, py], index) => `${index ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
    return svg("g", { class: line.kind },
      this.isArea && runs.map((points) =>
        svg("path", { class: "area", d: `${text(points)}L${points.at(-1)[0]} ${y(0)}L${points[0][0]} ${y(0)}Z` })),
      runs.map((points) => points.length > 1
        ? svg("path", { class: "path", d: text(points) })
        : svg("circle", { class: "dot", cx: points[0][0], cy: points[0][1], r: 2.5 })));
  }

  cross(x, y, bottom) {
    const point = this.points[this.at ?? -1];
    if (!point) return [];
    return [svg("line", { class: "cross", x1: x(this.at), x2: x(this.at), y1: 4, y2: bottom }),
      this.lines.filter((line) => isNumber(point[line.key])).map((line) =>
        svg("g", { class: line.kind }, svg("circle", { class: "dot", cx: x(this.at), cy: y(point[line.key]), r: 3.5 })))];
  }

  caption() {
    const latest = (key) => this.points.findLast((point) => isNumber(point[key]))?.[key];
    const point = this.points[this.at ?? -1];
    const texts = this.lines.map((line) => this.format(point ? point[line.key] : latest(line.key)));
    this.lines.forEach((line, index) => { this.keys[index].textContent = texts[index]; });
    this.when.textContent = point ? [when(point.at_s), point.note].filter(Boolean).join(", ") : "";
    const words = this.lines.map((line, index) => `${line.label} ${texts[index]}`).join(", ");
    this.plot.setAttribute("aria-label", `${this.title}: ${words}. Left and right arrows walk through time.`);
  }
}

const isLoss = (incident) => /lost|damaged|not_started/.test(incident.kind);

function niceTop(value) {
  if (value <= 0) return 1;
  const step = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((factor) => factor * step).find((candidate) => candidate >= value * 1.02) ?? 20 * step;
}

const CHARTS = [
  new Chart("Time to first token", seconds, [{ key: "ttft_p50", label: "P50", kind: "a" }, { key: "ttft_p99", label: "P99", kind: "b" }]),
  new Chart("Between tokens", seconds, [{ key: "itl_p50", label: "P50", kind: "a" }, { key: "itl_p99", label: "P99", kind: "b" }]),
  new Chart("Tokens per second", number, [{ key: "output_tokens_per_s", label: "out", kind: "c" }, { key: "input_tokens_per_s", label: "in", kind: "a" }], { isArea: true }),
  new Chart("Requests per second", number, [{ key: "ended_per_s", label: "all", kind: "a" }, { key: "not_ok_per_s", label: "not ok", kind: "d" }], { isArea: true }),
];

// ------------------------------------------------------------------------------------------------------ table and tiles

const FORMATS = { s: seconds, share: percent, bytes, "bytes/s": (value) => (isNumber(value) ? `${bytes(value)}/s` : NONE), currency: money, requests: count, tokens: count };
const UNITS_IN_HEAD = ["1/s", "tokens/s", "J", "cores"]; // of the others each figure says its own

/** A figure of the table as people read it, with the figure as it came beside it. */
function figure(value, unit, key) {
  if (!isNumber(value)) return NONE;
  return h("data", { value, "data-figure": key }, (FORMATS[unit] ?? number)(value));
}

const TILES = [
  ["Requests", "requests", (row) => `${number(row.concurrency)} at a time, on average`],
  ["Success", "success_rate", (row) => h("span", { class: isBroken("kept_rate", row.kept_rate) && "bad" }, `${percent(row.kept_rate)} kept their objectives`)],
  ["First token, P99", "ttft_p99", (row) => `P50 ${seconds(row.ttft_p50)}`],
  ["Between tokens, P99", "itl_p99", (row) => `P50 ${seconds(row.itl_p50)}`],
  ["Output tokens/s", "output_tokens_per_s", (row) => `${number(row.input_tokens_per_s)} in, ${percent(row.hit_rate)} from cache`],
  ["Per million tokens", "full_cost_per_m_tokens", (row) => (row.full_cost === 0 ? "no price is stated" : `${money(row.full_cost)} in all`)],
];

const TILE_COLUMNS = [...TILES.map((tile) => tile[1]), ...["concurrency", "kept_rate", "ttft_p50", "itl_p50", "input_tokens_per_s", "hit_rate", "full_cost"]].join(",");

function drawTiles({ rows, columns }) {
  const row = rows[0] ?? {};
  const units = Object.fromEntries(columns.map((column) => [column.key, column.unit]));
  fill(byId("tiles"), TILES.map(([title, key, beside]) =>
    h("div", { class: "panel tile", "data-state": isBroken(key, row[key]) && "bad" }, h("dt", {}, title), h("dd", {}, figure(row[key], units[key], key)), h("p", {}, row.requests ? beside(row) : "no requests yet"))));
}

const PROMISED = ["success_rate", "kept_rate"];
const TROUBLES = ["rejection_rate", "timeout_rate", "failure_rate"];

/** Whether a figure says that less than was promised was kept. */
function isBroken(key, value) {
  if (!isNumber(value) || !state.successRatio) return false;
  return PROMISED.includes(key) ? value < state.successRatio : TROUBLES.includes(key) && value > 1 - state.successRatio;
}

function drawTable(answer) {
  const { rows } = answer;
  const columns = [{ key: answer.by, heading: answer.by, unit: "" }, ...answer.columns];
  if (!rows.length) {
    fill(byId("rows"), nothingYet());
    return;
  }
  const head = h("thead", {}, h("tr", {}, columns.map((column) =>
    h("th", { scope: "col", title: column.help }, column.heading, UNITS_IN_HEAD.includes(column.unit) && !column.heading.includes(column.unit) && h("small", {}, column.unit)))));
  const cells = (row) => answer.columns.map((column) =>
    h("td", { class: isBroken(column.key, row[column.key]) && "bad" }, figure(row[column.key], column.unit, column.key)));
  const body = h("tbody", {}, rows.map((row) => h("tr", {},
    h("th", { scope: "row", title: row[answer.by] }, state.by.includes("=") ? row[answer.by] || NONE : filterButton(row[answer.by])), cells(row))));
  const foot = h("tfoot", {},
    (rows.length > 1 || answer.hidden_rows > 0) && h("tr", { class: "sum" }, h("th", { scope: "row" }, "all"), cells(answer.total)),
    h("tr", {}, h("th", { scope: "row" }, trendsButton()), answer.columns.map((column) => h("td", { "data-spark": column.key }))));
  const hidden = answer.hidden_rows > 0 && h("p", { class: "pad soft" }, `and ${count(answer.hidden_rows)} more with fewer requests`);
  const shared = answer.shared_names.length > 0 && h("p", { class: "pad soft" },
    `${answer.shared_names.join(", ")}: several workers had this name at a time, since several systems keep this ledger.`);
  fill(byId("rows"), h("table", {}, head, body, foot), hidden, shared);
  drawSparks();
}

/** Shows and hides the charts of the columns, which the last line of the table has in small. */
function trendsButton() {
  const toggle = () => { state.hasTrends = !state.hasTrends; remember(); showTrends(); };
  return h("button", { class: "link", "data-key": "trends", "aria-expanded": String(state.hasTrends), "aria-controls": "trends", onclick: toggle }, "over time");
}

function showTrends() {
  byId("trends").hidden = !state.hasTrends;
  document.querySelector('[data-key="trends"]')?.setAttribute("aria-expanded", String(state.hasTrends));
}

function drawSparks() {
  for (const cell of byId("rows").querySelectorAll("[data-spark]")) fill(cell, spark(state.series?.points ?? [], cell.dataset.spark));
}

/** A line of a column's values, from zero to the most, without axes: whether it rose, and when. */
function spark(points, key) {
  const most = Math.max(...points.map((point) => point[key]).filter(isNumber));
  if (points.length < 2 || !Number.isFinite(most)) return null;
  let isDrawing = false;
  const path = points.map((point, index) => {
    const command = isDrawing ? "L" : "M";
    isDrawing = isNumber(point[key]);
    return isDrawing ? `${command}${((60 * index) / (points.length - 1)).toFixed(1)} ${(17 - (15 * point[key]) / (most || 1)).toFixed(1)}` : "";
  });
  return svg("svg", { class: "spark a", viewBox: "0 0 60 18", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("path", { d: path.join("") }));
}

function filterButton(value) {
  const condition = `${state.by}=${value}`;
  return h("button", { class: "link", "data-key": condition, title: `Show ${condition} alone`, onclick: () => filterBy(condition) }, value || NONE);
}

function filterBy(condition) {
  const dimension = condition.split("=", 1)[0];
  state.where = [...state.where.filter((each) => !each.startsWith(`${dimension}=`)), condition];
  onAsked();
}

/** Keys of tags that were sent in the window; one with "=" in it can be chosen, but no filter can say it. */
function drawTags(keys) {
  const select = byId("tags");
  const all = [...new Set([...keys, ...(isTag(state.by) ? [state.by.slice(4)] : [])])];
  select.hidden = !all.length;
  if (document.activeElement === select) return; // somebody is choosing
  fill(select, h("option", { value: "" }, "by tag"), all.map((key) => h("option", { value: `tag:${key}` }, key)));
  select.value = isTag(state.by) ? state.by : "";
}

function chooseTag() {
  state.by = byId("tags").value || "scenario";
  byId("tags").blur();
  choice(byId("by"), DIMENSIONS, "by", onAsked);
  onAsked();
}

function drawFilters() {
  document.body.toggleAttribute("data-filtered", state.where.length > 0); // sections that a filter does not hold for say so
  fill(byId("filters"), state.where.map((condition) =>
    h("button", { class: "chip", "data-key": `filter-${condition}`, "aria-label": `Remove the filter ${condition}`,
      onclick: () => { state.where = state.where.filter((each) => each !== condition); onAsked(); } }, `${condition} ×`)));
}

function nothingYet() {
  const body = '{"prompt": "Once upon a time", "max_tokens": 16}';
  const command = `curl ${location.origin}/v1/completions -H 'Content-Type: application/json' -d '${body}'`;
  if (state.where.length) return empty("No request matches", `Nothing with ${state.where.join(" and ")} ended in the last ${state.since}.`);
  return empty(`No request ended in the last ${state.since}`, "Choose a longer window, or send one:", command);
}

function drawSeries(answer) {
  state.series = answer;
  drawSparks();
  for (const chart of CHARTS) chart.update(answer);
  const trends = answer.columns.map(trendOf);
  const shownNow = byId("trends").childElementCount === trends.length && trends.every((chart) => byId("trends").contains(chart.figure));
  if (!shownNow) fill(byId("trends"), trends.map((chart) => chart.figure)); // else who points at one would lose it
  for (const chart of trends) chart.update(answer);
}

const TRENDS = new Map(); // a small chart for each column that was ever shown, by its key

function trendOf({ key, heading, unit, help }) {
  if (!TRENDS.has(key)) {
    const label = UNITS_IN_HEAD.includes(unit) && !heading.includes(unit) ? unit : "";
    TRENDS.set(key, new Chart(heading, FORMATS[unit] ?? number, [{ key, label, kind: "a" }], { isArea: true, help }));
  }
  return TRENDS.get(key);
}

// ------------------------------------------------------------------------------------------------------------- requests

const MAX_REQUESTS = 400;
const GROUPS = [
  ["gateway", "gateway", ["receive", "tokenise", "admit", "route", "wire", "detokenise", "write"]],
  ["queue", "waiting", ["queue", "stall"]],
  ["fetch", "KV fetch", ["fetch_host", "fetch_disk", "fetch_remote"]],
  ["prefill", "prefill", ["prefill"]],
  ["decode", "decode", ["decode"]],
  ["publish", "publish", ["publish"]],
  ["lost", "lost, preempted", ["preempted", "lost"]],
];

function drawRequests(answer) {
  const { requests } = answer;
  const container = byId("request-rows");
  if (!requests.length) {
    fill(container, nothingYet());
    return;
  }
  const longest_s = Math.max(...requests.map((request) => request.e2e_s));
  const headings = [["ended", ""], ["request", "text"], ["tenant", "text wide"], ["scenario", "text wide"], ["outcome", "text"], ["worker", "text wide"], ["where the time went", "text"], ["first token", "wide"], ["E2E", ""], ["tokens in", "wide"], ["out", "wide"], ["cost", "wide"]];
  fill(container, h("table", {},
    h("thead", {}, h("tr", {}, headings.map(([heading, kind]) => h("th", { scope: "col", class: kind }, heading)))),
    h("tbody", {}, requests.map((request) => requestRow(request, longest_s)))),
    requests.length === state.limit && state.limit < MAX_REQUESTS && h("p", { class: "pad more" },
      h("button", { "data-key": "more", onclick: () => { state.limit = Math.min(MAX_REQUESTS, state.limit * 4); onAsked(); } }, "Show more")));
}

function requestRow(request, longest_s) {
  const open = () => openExplain(request.id);
  return h("tr", { class: "open", onclick: open },
    h("td", {}, when(request.ended_s)),
    h("td", { class: "text" }, h("button", { class: "link mono name", "data-key": request.id, "aria-haspopup": "dialog", title: request.id }, request.id.slice(0, 8))),
    h("td", { class: "text name wide", title: request.tenant }, request.tenant || NONE),
    h("td", { class: "text wide" }, request.scenario),
    h("td", { class: "text" }, chip(request.outcome, request.outcome === "ok" ? "good" : "bad"), alike(request)),
    h("td", { class: "text name wide" }, request.worker || NONE, request.num_legs > 1 && h("span", { class: "soft" }, ` +${request.num_legs - 1}`)),
    h("td", { class: "text bar-cell" }, stageBar(request, longest_s)),
    h("td", { class: "wide" }, seconds(request.ttft_s)), h("td", {}, seconds(request.e2e_s)),
    h("td", { class: "wide", title: `${count(request.cached_tokens)} of them from cache` }, count(request.prompt_tokens)), h("td", { class: "wide" }, count(request.output_tokens)),
    h("td", { class: "wide" }, money(request.cost)));
}

/** A flood of refusals is told together: this record stands for so many. */
const alike = (request) => request.num_alike > 1 && h("span", { class: "soft", title: `This record stands for ${count(request.num_alike)} requests that were turned away alike` }, ` × ${count(request.num_alike)}`);

function stageBar(request, longest_s) {
  const parts = GROUPS.map(([kind, label, stages]) => [kind, stages.reduce((sum, stage) => sum + (request.stages_s[stage] ?? 0), 0), label]).filter(([, value]) => value > 0);
  const words = parts.map(([, value, label]) => `${label} ${seconds(value)}`).join(", ");
  const bar = stacked(parts, words || "no stages");
  bar.title = words;
  bar.style.setProperty("width", `${Math.max(1.5, (100 * request.e2e_s) / longest_s)}%`);
  bar.style.setProperty("min-width", "0");
  return bar;
}

// ------------------------------------------------------------------------------------------------------ workers and KV

const fact = (term, value, title) => h("div", { title }, h("dt", {}, term), h("dd", {}, value));

function meter(label, value, part, kind) {
  const parts = isNumber(part) ? [[kind, part], ["idle", Math.max(0, 1 - part)]] : [["idle", 1]];
  return h("div", { class: "meter" }, h("div", {}, label, h("b", {}, value)), stacked(parts, `${label}: ${value}`));
}

function drawWorkers(answer) {
  const workers = answer.workers.toSorted((a, b) => isGone(a, answer.window) - isGone(b, answer.window) || (a.worker < b.worker ? -1 : 1));
  fill(byId("worker-cards"), workers.length ? workers.map((worker) => workerCard(worker, answer.window))
    : h("div", { class: "panel" }, empty("No worker was heard of in this window", "Workers tell what their time goes to every few seconds, once they run.")));
}

const GONE_S = 30; // workers tell of themselves every five seconds
const isGone = (worker, window) => worker.until_s < window.end_s - GONE_S;

/** A peak that was beaten had been measured on a busy machine: what is over it is an upper bound. */
const ofPeak = (value, worker) => (worker.is_peak_low && isNumber(value) ? `< ${percent(value)}` : percent(value));

function workerCard(worker, window) {
  const shares = [...Object.entries(worker.step_share), ["between", worker.between_share], ["idle", worker.idle_share]];
  return h("article", { class: "panel card", "aria-label": `Worker ${worker.worker}` },
    h("header", {}, h("h3", {}, worker.worker), h("span", { class: "soft" }, worker.model), isGone(worker, window) && chip("gone", "warn")),
    h("p", { class: "where" }, [worker.device, worker.version && `version ${worker.version}`, `${when(worker.from_s)} to ${when(worker.until_s)}`].filter(Boolean).join(" · ")),
    stacked(shares, shares.map(([kind, part]) => `${kind} ${percent(part)}`).join(", ")),
    h("div", { class: "legend" }, legend(shares.filter(([, part]) => part > 0).map(([kind, part]) => [kind, `${kind} ${percent(part)}`]))),
    meter("KV in use, mean", percent(worker.used_blocks_share), worker.used_blocks_share, "fetch"),
    h("dl", { class: "facts" },
      fact("running", number(worker.running), "Sequences, mean"), fact("waiting", number(worker.waiting), "Sequences, mean"),
      fact("MFU", ofPeak(worker.mfu, worker), "Achieved over peak FLOP/s, while in steps"), fact("MBU", ofPeak(worker.mbu, worker), "Achieved over peak bytes/s, while in steps"),
      fact("CPU cores", number(worker.cpu_cores)), fact("memory", bytes(worker.rss_bytes)),
      fact("price", isNumber(worker.price_per_hour) ? `${money(worker.price_per_hour)}/h` : "not stated", "Set with --price-per-hour"),
      fact("power", isNumber(worker.watts) ? `${number(worker.watts)} W` : "not stated", worker.is_power_measured ? "Measured" : "Of the card")));
}

function drawTiers(answer) {
  fill(byId("tier-cards"), answer.stores.length ? answer.stores.map(storeCard)
    : h("div", { class: "panel" }, empty("No KV store runs", "Blocks live in the workers' memory alone. To keep more of them:", "tokenworks serve --kv-host-bytes 4GiB")));
}

function storeCard(store) {
  const hits = Object.entries(store.hits).map(([tier, hit]) => fact(`hits, ${tier}`, count(hit)));
  const evictions = Object.entries(store.evictions).filter(([, number]) => number).map(([tier, number]) => fact(`evicted, ${tier}`, count(number)));
  const faults = Object.entries(store.faults).filter(([, number]) => number).map(([fault, number]) => fact(`fault: ${fault}`, count(number)));
  return h("article", { class: "panel card", "aria-label": `Store ${store.store}` },
    h("header", {}, h("h3", {}, store.store)),
    Object.keys(store.limit_bytes).map((tier) => {
      const [used, limit] = [store.used_bytes[tier] ?? 0, store.limit_bytes[tier]];
      return meter(tier, limit ? `${bytes(used)} of ${bytes(limit)}` : bytes(used), limit ? used / limit : undefined, tier);
    }),
    h("dl", { class: "facts" }, hits, fact("misses", count(store.misses)), evictions, faults));
}

// ----------------------------------------------------------------------------------------------------------------- cost

const LINES = {
  failed: "requests that failed", between: "between steps", idle: "idle", unrecorded: "not (yet) in a record",
  energy: "energy beside the requests'", rounding: "rounding",
};
const lineLabel = (line) => LINES[line.kind] ?? (line.kind === "kv" ? `KV kept, ${line.name}` : line.name || NONE);

function drawCost(bill) {
  if (!bill.lines.length) {
    fill(byId("bill"), bill.unpriced_workers.length
      ? empty("No price is stated", "Time is measured all the same. What it costs is known once a worker has a price:", "tokenworks serve --price-per-hour 0.40")
      : empty("Nothing was spent", `No worker ran in the last ${state.since}.`));
    return;
  }
  const most = Math.max(...bill.lines.map((line) => Math.abs(line.amount)));
  fill(byId("bill"), h("div", { class: "bill" },
    bill.lines.map((line) => billLine(lineLabel(line), line, most, bill.total)),
    billTotal("bill", bill.total)),
    h("p", { class: "legend" }, billNotes(bill).map((note) => h("span", { class: "plain" }, note))));
}

const billLine = (label, line, most, total) => [
  h("span", { class: "who" }, label),
  h("span", { class: "track", "aria-hidden": "true" },
    h("i", { "data-kind": line.kind, style: { width: `${(100 * Math.abs(line.amount)) / most}%` } })),
  h("span", { class: "amount" }, h("data", { value: line.amount }, money(line.amount))),
  h("span", { class: "soft amount part" }, percent(total ? line.amount / total : 0)),
];

const billTotal = (label, amount) => [
  h("span", { class: "who total" }, label), h("span", { class: "total" }, "\u00a0"), h("span", { class: "amount total" }, money(amount)), h("span", { class: "total part" }, "\u00a0"),
];

function billNotes(bill) {
  const { unpriced_workers: unpriced } = bill;
  return [
    isNumber(bill.per_million_tokens) && `${money(bill.per_million_tokens)} per million tokens`,
    isNumber(bill.per_million_output_tokens) && `${money(bill.per_million_output_tokens)} per million output tokens`,
    bill.total > 0 && Object.keys(bill.by_work).length > 0
      && `of that, requests' device time: ${Object.entries(bill.by_work).map(([work, amount]) => `${work} ${money(amount)}`).join(", ")}`,
    bill.saved > 0 && `${money(bill.saved)} saved by KV that was found instead of computed`,
    unpriced.length > 0 && `no price stated for ${unpriced.join(", ")}`,
    bill.is_energy_modelled && "energy modelled from stated watts",
    !bill.is_full_cost_known && "no worker told what its time went to: full costs are not known",
  ].filter(Boolean);
}

// ------------------------------------------------------------------------------------- diagnosis, drift, incidents, gaps

const SHOWN_FINDINGS = 3;
const SEVERITIES = { critical: "bad", warning: "warn" };
const diagnosed = { told: null, alerts: null, isUnwritten: false, drawn: "" };

function drawFindings(told) {
  diagnosed.told = told;
  drawVerdict();
}

/** Of one alert that pages and is a ticket at the same time, the page is enough; it comes first. */
function drawAlerts({ alerts }) {
  const name = (alert) => JSON.stringify([alert.name, alert.subject]);
  diagnosed.alerts = alerts?.filter((alert, index) => alerts.findIndex((each) => name(each) === name(alert)) === index);
  drawVerdict();
}

/** What is wrong, whom it hurts, what to do: alerts that fire, then one line for each rule that found something. */
function drawVerdict() {
  const { told, alerts } = diagnosed;
  const wanted = JSON.stringify([diagnosed.isUnwritten, told, alerts, state.since, state.hasAllFindings]);
  if (!told || wanted === diagnosed.drawn) return; // the same drawn again would take the selection from who reads it
  diagnosed.drawn = wanted;
  const groups = [...Map.groupBy(told.findings, (found) => found.rule).values()];
  const { words, kind } = verdict(told, groups, alerts ?? []);
  byId("verdict").dataset.state = kind;
  byId("verdict-words").textContent = words;
  byId("diagnosis-note").textContent = told.is_own_baseline && groups.length
    ? `compared with ${clock(told.baseline.start_s)} to ${clock(told.baseline.end_s)}, the best stretch of the same run` : "";
  const number = groups.length + (alerts ?? []).length;
  byId("findings-count").hidden = !number;
  byId("findings-count").textContent = String(number);
  byId("findings-count").dataset.state = kind;
  document.title = number ? `(${number}) Tokenworks` : "Tokenworks";
  fill(byId("alerts"), (alerts ?? []).map(alertLine));
  const isLong = groups.length > SHOWN_FINDINGS + 1 && !state.hasAllFindings;
  fill(byId("findings"), (isLong ? groups.slice(0, SHOWN_FINDINGS) : groups).map(finding),
    isLong && h("p", { class: "more" }, h("button", { "data-key": "all-findings", onclick: () => { state.hasAllFindings = true; drawVerdict(); } }, `Show ${groups.length - SHOWN_FINDINGS} more`)));
}

/** The headline, and how bad it is. */
function verdict(told, groups, alerts) {
  const found = ["critical", "warning", "notice"].map((severity) => [groups.filter(([first]) => first.severity === severity).length, severity]);
  const parts = found.filter(([number]) => number).map(([number, word]) => `${number} ${number === 1 || word === "critical" ? word : `${word}s`}`);
  const firing = alerts.length && `${alerts.length} ${alerts.length === 1 ? "alert fires" : "alerts fire"}`;
  const within = `in the last ${state.since}`;
  const isBad = found[0][0] || alerts.some((alert) => alert.severity === "page");
  if (parts.length || firing) {
    const words = [firing, parts.length && `${parts.join(", ")} ${within}`].filter(Boolean).join("; ");
    return { words, kind: isBad ? "bad" : found[1][0] || firing ? "warn" : "good" };
  }
  if (diagnosed.isUnwritten) return { words: "What is wrong is not known: records are not written", kind: "warn" };
  return told.requests ? { words: `Nothing is wrong: ${told.rules} rules see no fault in ${count(told.requests)} requests ${within}`, kind: "good" }
    : { words: `No request ended ${within}`, kind: "unknown" };
}

const alertLine = (alert) => h("li", {}, chip(alert.severity, alert.severity === "page" ? "bad" : "warn"),
  h("span", {}, h("b", {}, [alert.name, alert.subject].filter(Boolean).join(" ")), " ", h("span", { class: "soft" }, alert.summary)),
  h("span", { class: "soft" }, `since ${moment(alert.since_s)}`));

/** Everything that one rule found, told in short; unfolded, with its evidence. */
function finding(group) {
  const [first, ...others] = group;
  const isOpen = state.open.has(first.rule);
  return h("details", { class: "finding", "data-severity": first.severity, open: isOpen, ontoggle: (event) => state.open[event.target.open ? "add" : "delete"](first.rule) },
    h("summary", { "data-key": `finding-${first.rule}`, title: first.rule.replaceAll("_", " ") },
      chip(first.severity, SEVERITIES[first.severity]),
      h("span", { class: "what" }, first.signal, others.length > 0 && h("span", { class: "soft" }, ` Likewise ${others.map((each) => each.subject).join(", ")}.`)),
      h("span", { class: "whom" }, whom(group)),
      h("span", { class: "do" }, first.action)),
    group.map((found) => h("div", { class: "each" }, group.length > 1 && h("h3", {}, `${found.kind} ${found.subject}`), h("dl", {}, facts(found)))));
}

/** Whom it hurts, and when it was at its worst. */
function whom(group) {
  const hurt = [...new Set(group.flatMap((found) => found.hurt.map((each) => each.tenant || NONE)))];
  const worst = group.map((found) => found.worst).filter(Boolean)[0];
  return [hurt.length > 0 && h("span", {}, "hurts ", h("b", {}, hurt.slice(0, 4).join(", ")), hurt.length > 4 && ` and ${hurt.length - 4} more`),
    worst && h("span", {}, hurt.length > 0 && "; ", `worst ${clock(worst[0] / 1e9)} to ${clock(worst[1] / 1e9)}`)];
}

function facts(found) {
  const lines = [["signal", found.signal], ["cause", found.cause], ["action", found.action],
    ["when", found.worst && `worst from ${clock(found.worst[0] / 1e9)} to ${clock(found.worst[1] / 1e9)}`],
    ["hurts", found.hurt.length > 0 && h("ul", {}, found.hurt.map((each) => h("li", {}, h("b", {}, each.tenant), ` ${each.text}`)))], ["gain", found.gain],
    ["evidence", h("ul", {}, found.evidence.map(evidence))]];
  return lines.filter(([, text]) => text).map(([term, text]) => [h("dt", {}, term), h("dd", {}, text)]);
}

const evidence = (each) => h("li", {}, h("b", {}, each.text), ` ${each.meaning}`, each.before && h("span", { class: "soft" }, ` (before: ${each.before})`));

function drawDrift({ features, requests, reference_requests: before, are_halves: areHalves }) {
  const where = areHalves ? "that came first: too little was before the window" : "in the window before";
  byId("drift-note").textContent = `${count(requests)} requests, against ${count(before)} ${where}`;
  if (!features.length) {
    fill(byId("features"), empty("Too little to compare", "Drift needs 50 requests in this window and as many in the one before."));
    return;
  }
  fill(byId("features"), h("table", {},
    h("thead", {}, h("tr", {}, [["feature", ""], ["PSI", ""], ["by chance", ""], ["before", "text"], ["now", "text"]].map(([text, kind]) => h("th", { scope: "col", class: kind }, text)))),
    h("tbody", {}, features.map((feature) => h("tr", {},
      h("th", { scope: "row" }, feature.feature.replaceAll("_", " "), " ", feature.moved && chip("moved", "warn")),
      h("td", { class: feature.moved ? "warn" : "" }, number(feature.psi)), h("td", { class: "soft" }, number(feature.noise)),
      h("td", { class: "text" }, feature.before),
      h("td", { class: "text" }, feature.after, feature.moved && h("span", { class: "soft" }, ` (grew most: ${feature.change})`)))))));
}

function drawChains({ breakdown }) {
  if (!breakdown.rows.length) {
    fill(byId("dependencies"), empty("No application has told of itself", "Send spans by OpenTelemetry to this address, and retrieval, caches and tools are shown with the model call:",
      `OTEL_EXPORTER_OTLP_ENDPOINT=${location.origin}`));
    return;
  }
  const headings = [["service", "text"], ["step", "text"], ["count", ""], ["errors", ""], ["P50", ""], ["P99", ""], ["of the slowest traces", ""], ["hits", ""], ["origin P50", ""], ["cross-zone", ""]];
  const optional = (value) => (isNumber(value) ? percent(value) : NONE);
  fill(byId("dependencies"), h("table", {},
    h("thead", {}, h("tr", {}, headings.map(([text, kind]) => h("th", { scope: "col", class: kind }, text)))),
    h("tbody", {}, breakdown.rows.map((row) => h("tr", {},
      h("th", { scope: "row", title: row.service }, row.service), h("td", { class: "text name", title: row.name }, row.name),
      h("td", {}, count(row.count)), h("td", { class: row.error_rate > 0 ? "bad" : "" }, percent(row.error_rate)),
      h("td", {}, seconds(row.p50_s)), h("td", {}, seconds(row.p99_s)), h("td", {}, percent(row.tail_share)),
      h("td", {}, optional(row.hit_rate)), h("td", {}, seconds(row.origin_p50_s)), h("td", {}, optional(row.cross_zone_share)))))));
}

function drawStatus(status) {
  [state.currency, state.incidents, state.successRatio] = [status.currency, status.incidents, status.success_ratio];
  byId("model").textContent = status.models.join(", ");
  drawTags(status.tags);
  fill(byId("notices"), status.gaps.map((gap) =>
    h("p", { class: "notice" }, h("strong", { class: "warn" }, "Records are missing"),
      h("span", {}, `between ${moment(gap.from_s)} and ${moment(gap.until_s)}: ${count(gap.frames)} could not be written (${gap.reason || "no reason known"}). Figures of this window are too small by that much.`))));
  const rows = status.incidents.toReversed();
  const losses = rows.filter(isLoss).slice(0, 3);
  fill(byId("lately"), losses.length > 0 && ["Happened: ", losses.map((each) => `${when(each.at_s)} ${each.kind.replaceAll("_", " ")} ${each.subject}`).join(" · "), " ", h("a", { href: "#incidents" }, "all")]);
  fill(byId("incident-rows"), rows.length
    ? h("table", {}, h("thead", {}, h("tr", {}, [["when", ""], ["what", "text"], ["who", "text"], ["", "text"]].map(([text, kind]) => h("th", { scope: "col", class: kind }, text)))),
        h("tbody", {}, rows.map((each) => h("tr", {}, h("td", {}, when(each.at_s)), h("td", { class: isLoss(each) ? "text bad" : "text" }, each.kind.replaceAll("_", " ")), h("td", { class: "text name" }, each.subject), h("td", { class: "text soft" }, each.text)))))
    : empty("Nothing happened", `No worker came or went in the last ${state.since}.`));
}

/** What the gateway could not write down: the ledger does not know of it, so that the gateway itself is asked. */
function drawJournal({ failure, waiting_frames: waiting, dropped_frames: dropped }) {
  diagnosed.isUnwritten = Boolean(failure);
  drawVerdict();
  const lost = dropped > 0 && `${count(dropped)} were dropped since this gateway's start.`;
  fill(byId("unwritten"), failure && h("p", { class: "notice" }, h("strong", { class: "warn" }, "Records are not written"),
    h("span", {}, `${failure}: ${count(waiting)} wait in the gateway's memory.`, lost && ` ${lost}`)));
}

// -------------------------------------------------------------------------------------------------------------- explain

const ns = (value) => seconds(isNumber(value) ? value / 1e9 : value);

async function openExplain(id) {
  const dialog = byId("explain");
  if (!dialog.open) refocus(dialog, document.activeElement.dataset.key);
  byId("explain-title").textContent = id;
  fill(byId("explain-chips"));
  fill(byId("explain-body"), h("p", { class: "soft" }, "…"));
  if (!dialog.open) dialog.showModal();
  try {
    drawExplanation(await ask(`/observe/explain/${encodeURIComponent(id)}`));
  } catch (error) {
    fill(byId("explain-body"), h("p", { class: "bad" }, error.message));
  }
}

/** Give the focus back once the dialog is closed: the browser gives it to what had it, which may have been drawn again. */
function refocus(dialog, key) {
  if (key === undefined) return;
  const isNobodys = () => document.activeElement === document.body || dialog.contains(document.activeElement);
  dialog.addEventListener("close", () => { if (isNobodys()) focusOn(document, key); }, { once: true });
}

function drawExplanation(told) {
  fill(byId("explain-chips"), chip(told.outcome, told.outcome === "ok" ? "good" : "bad"), chip(told.scenario), chip(told.tenant || "no tenant"), chip(told.model));
  fill(byId("explain-body"),
    h("div", {}, h("p", { class: "sentence" }, told.story), told.advice && h("p", { class: "sentence soft" }, told.advice)),
    h("dl", { class: "facts" }, requestFacts(told)),
    told.trace_id && h("p", { class: "soft" }, "trace ", h("span", { class: "mono" }, told.trace_id)),
    part(told.num_alike > 1 ? `Where the time went, in one of ${count(told.num_alike)} alike` : "Where the time went", waterfall([...told.stages.map((line) => ({ label: line.stage, kind: line.stage, title: line.meaning, start: line.start_ns, span: line.ns, share: line.share })), ...firstToken(told)], told.e2e_ns)),
    told.legs.length > 0 && part("Workers, and why these", waterfall(told.legs.map((leg) => ({ label: legLabel(leg), kind: leg.outcome === "ok" ? "prefill" : "lost", title: leg.why, start: leg.start_ns, span: leg.ns })), told.e2e_ns), told.legs.map(legWords)),
    told.spans?.length > 0 && part("The application around it", spanFall(told)),
    told.costs.length > 0 && part("Cost", h("div", { class: "bill" }, told.costs.map((line) => billLine(line.name, { kind: "decode", amount: line.amount }, Math.max(...told.costs.map((each) => each.amount)), told.cost)), billTotal("request", told.cost))),
    Object.keys(told.tags).length > 0 && part("Tags", h("p", { class: "head" }, Object.entries(told.tags).map(([key, value]) => chip(`${key}: ${value}`)))));
}

const part = (title, ...content) => h("section", {}, h("h3", {}, title), content);

function requestFacts(told) {
  const cached = Object.entries(told.cached_tokens).map(([tier, tokens]) => `${count(tokens)} ${tier}`).join(", ");
  return [
    fact("E2E", ns(told.e2e_ns)), fact("first token", ns(told.ttft_ns)),
    told.gaps && fact("between tokens", `${ns(told.gaps.p50_ns)} P50`), told.gaps && fact("longest gap", ns(told.gaps.longest_ns)),
    fact("prompt", `${count(told.prompt_tokens)} tokens`), fact("cached", cached || "0"), fact("output", `${count(told.output_tokens)} tokens`),
    fact("finished by", told.finish_reasons.join(", ") || NONE), fact("cost", money(told.cost)),
    told.saved > 0 && fact("saved by cache", money(told.saved)),
    told.retries > 0 && fact("retries", count(told.retries)), told.migrations > 0 && fact("migrations", count(told.migrations)),
    told.preemptions > 0 && fact("preemptions", count(told.preemptions)),
  ];
}

const legLabel = (leg) => [leg.worker, leg.kind !== "whole" && leg.kind].filter(Boolean).join(" · ");

function legWords(leg) {
  const predicted = isNumber(leg.predicted_ttft_ns) && `predicted first token after ${ns(leg.predicted_ttft_ns)}, came after ${ns(leg.actual_ttft_ns)}`;
  const expected = leg.expected_cached_tokens > 0 && `${count(leg.expected_cached_tokens)} cached tokens expected there`;
  const again = leg.is_new_life && "started again since: another life of this worker than the one that was lost";
  const ended = leg.outcome !== "ok" && `ended: ${[leg.outcome, leg.lost].filter(Boolean).join(", the worker ")}`;
  const words = [again, leg.why, expected, predicted, ended].filter(Boolean).join("; ");
  return h("p", { class: "soft" }, h("b", {}, leg.worker), ` ${words}`);
}

/** When the client had something to read, below the stages. */
const firstToken = (told) => (isNumber(told.ttft_ns) ? [{ label: "first token", kind: "instant", title: "From the request's arrival", start: told.ttft_ns, span: 0, at: told.ttft_ns }] : []);

/** Bars on one time axis; `start` and `span` in the unit of `whole`. */
function waterfall(bars, whole) {
  return h("div", { class: "fall" }, bars.map((bar) => [
    h("span", { class: bar.isOnPath ? "label on-path" : "label", title: bar.title }, bar.label),
    h("span", { class: "lane", title: bar.title }, h("i", { "data-kind": bar.kind, style: { left: `${(100 * bar.start) / whole}%`, width: `${(100 * bar.span) / whole}%` } })),
    h("span", { class: "number" }, ns(bar.at ?? bar.span)),
    h("span", { class: "soft share number" }, isNumber(bar.share) ? percent(bar.share) : "")]));
}

const spanKind = (span) => (span.is_error ? "lost" : span.is_this ? "prefill" : span.is_critical ? "decode" : "gateway");

function spanFall(told) {
  const start = Math.min(0, ...told.spans.map((span) => span.start_ns));
  const end = Math.max(told.e2e_ns, ...told.spans.map((span) => span.start_ns + span.ns));
  return waterfall(told.spans.map((span) => ({ label: `${span.service} ${span.name}`, kind: spanKind(span), start: span.start_ns - start, span: span.ns, isOnPath: span.is_critical, title: span.is_critical ? "on the critical path" : "" })), end - start);
}

// ------------------------------------------------------------------------------------------------------------- the loop

/** What went wrong with a question; `isDown`: nobody was there to answer it. */
class Unanswered extends Error {
  constructor(words, isDown) {
    super(words);
    this.isDown = isDown;
  }
}

/** The answer of the observer; raises Unanswered with its own words, or with what to do where there is none. */
async function ask(path, signal) {
  const response = await fetch(path, { signal }).catch((error) => {
    throw error.name === "AbortError" ? error : new Unanswered("The gateway does not answer; is `tokenworks serve` running?", true);
  });
  const answer = await response.json().catch(() => null);
  if (response.ok && answer !== null) return answer;
  const told = answer?.error;
  throw new Unanswered(told?.message ?? `The gateway answered ${response.status}.`, told?.code === "observer_unavailable");
}

const SECTIONS = [
  { path: () => asking("status"), draw: drawStatus, into: "incident-rows" },
  { path: () => "/observe/journal", draw: drawJournal, into: null },
  { path: () => asking("table", { by: "all", columns: TILE_COLUMNS }), draw: drawTiles, into: "tiles" },
  { path: () => "/observe/alerts", draw: drawAlerts, into: null },
  { path: () => asking("series", { preset: state.preset, troubles: "yes" }), draw: drawSeries, into: null },
  { path: () => asking("table", { by: state.by, preset: state.preset, troubles: "yes" }), draw: drawTable, into: "rows" },
  { path: () => asking("requests", { order: state.order, limit: state.limit }), draw: drawRequests, into: "request-rows" },
  { path: () => asking("workers", {}, false), draw: drawWorkers, into: "worker-cards" },
  { path: () => asking("tiers", {}, false), draw: drawTiers, into: "tier-cards" },
  { path: () => asking("cost", {}, false), draw: drawCost, into: "bill" },
  { path: () => asking("diagnose", {}, false), draw: drawFindings, into: null, every: SLOW_POLL_MS },
  { path: () => asking("chains", {}, false), draw: drawChains, into: "dependencies", every: SLOW_POLL_MS },
  { path: () => asking("drift", {}, false), draw: drawDrift, into: "features", every: SLOW_POLL_MS },
];

const live = { round: 0, timer: 0, aborter: new AbortController(), answered: 0 }; // answered: when last, seconds since 1970

/** Ask for everything that is due and draw it as it comes; then wait for the next time. */
async function poll() {
  clearTimeout(live.timer);
  const round = (live.round += 1);
  const errors = await Promise.all(SECTIONS.map((section) => refresh(section, live.aborter.signal)));
  if (round !== live.round || state.isPaused) return;
  const down = nobodyAnswers(errors);
  showLiveness(down ? "down" : "live");
  if (down) drawDown(down);
  else {
    live.answered = Date.now() / 1000;
    SECTIONS.forEach(({ into }, index) => { if (into && errors[index]) fill(byId(into), h("p", { class: "pad bad" }, errors[index].message)); });
  }
  document.querySelector("main").toggleAttribute("data-stale", Boolean(down));
  schedule();
}

/** Why nothing can be told, where that is so: nobody is there, or all that was asked failed alike, as where the ledger cannot be read. */
function nobodyAnswers(errors) {
  const failed = errors.filter(Boolean);
  const isAlike = failed.length > SECTIONS.length / 2 && failed.every((error) => error.message === failed[0].message);
  return failed.find((error) => error.isDown) ?? (isAlike ? failed[0] : undefined);
}

/** Figures of before stay, and say of when they are. */
function drawDown(error) {
  fill(byId("notices"), h("p", { class: "notice bad" }, h("strong", { class: "bad" }, "No answer"),
    h("span", {}, error.message, live.answered > 0 && ` What is below is of ${clock(live.answered)}.`)));
  if (!diagnosed.told) byId("verdict-words").textContent = "What is wrong is not known";
}

/** The error, where there was one; nothing where the answer was drawn or is not due. */
async function refresh(section, signal) {
  const path = section.path();
  const now = performance.now();
  if (section.asked === path && now - section.drawnAt < (section.every ?? 0)) return null;
  try {
    const answer = await ask(path, signal);
    if (!signal.aborted) section.draw(answer);
    [section.asked, section.drawnAt] = [path, now];
  } catch (error) {
    if (error.name === "AbortError") return null;
    if (!(error instanceof Unanswered)) throw error; // a bug of this page: let the console tell
    section.asked = null;
    return error;
  }
  return null;
}

function schedule() {
  clearTimeout(live.timer);
  if (!state.isPaused && !document.hidden) live.timer = setTimeout(poll, POLL_MS);
}

function showLiveness(what) {
  byId("live").dataset.state = what;
  byId("live").textContent = { live: "live", paused: "paused", down: "no answer" }[what];
}

/** A person asked for something else: what is under way counts no more. */
function onAsked() {
  remember();
  drawFilters();
  if (!isTag(state.by)) byId("tags").value = "";
  live.aborter.abort();
  live.aborter = new AbortController();
  poll();
}

function switchTheme() {
  const isDark = getComputedStyle(document.documentElement).colorScheme === "light dark"
    ? matchMedia("(prefers-color-scheme: dark)").matches
    : document.documentElement.dataset.theme === "dark";
  document.documentElement.dataset.theme = isDark ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
}

/** Mark in the navigation where the reader is. */
function followReader() {
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id).setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-120px 0px -80% 0px" });
  for (const id of links.keys()) watch.observe(byId(id));
}

function begin() {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
  choice(byId("windows"), WINDOWS, "since", onAsked);
  choice(byId("by"), DIMENSIONS, "by", onAsked);
  choice(byId("preset"), PRESETS, "preset", onAsked);
  choice(byId("order"), ORDERS, "order", onAsked);
  fill(byId("stages-legend"), legend(GROUPS));
  fill(byId("charts"), CHARTS.map((chart) => chart.figure));
  showTrends();
  drawFilters();
  followReader();
  byId("tags").addEventListener("change", chooseTag);
  byId("theme").addEventListener("click", switchTheme);
  byId("explain-close").addEventListener("click", () => byId("explain").close());
  byId("explain").addEventListener("click", (event) => { if (event.target === byId("explain")) byId("explain").close(); });
  byId("live").addEventListener("click", () => {
    state.isPaused = !state.isPaused;
    showLiveness(state.isPaused ? "paused" : "live");
    if (state.isPaused) schedule();
    else poll();
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? schedule() : state.isPaused || poll()));
  poll();
}

begin();
