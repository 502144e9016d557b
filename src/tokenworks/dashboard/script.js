// The dashboard: asks the gateway for /observe/... every two seconds and draws what comes back. It computes no figure
// itself: what it shows is what the ledger's own functions gave, so that it equals `tokenworks table` to the digit.
//
// Everything from outside becomes text through `h`, which makes elements and text nodes and never parses markup: a tenant
// may be called <script>. Order of this file: state, elements, figures, charts, one drawing per section, explain, the loop.

const POLL_MS = 2000;
const SLOW_POLL_MS = 10000; // of what walks the whole window: diagnosis and drift
const WINDOWS = ["5m", "15m", "1h", "6h", "24h", "7d"];
const DIMENSIONS = ["scenario", "tenant", "model", "version", "worker"];
const PRESETS = ["online", "offline", "realtime"];
const ORDERS = ["latest", "slowest"];

// ---------------------------------------------------------------------------------------------------------------- state

const query = new URLSearchParams(location.search);
const known = (name, values, otherwise) => (values.includes(query.get(name)) ? query.get(name) : otherwise);
const state = {
  since: known("since", WINDOWS, "15m"),
  by: known("by", DIMENSIONS, "scenario"),
  preset: known("preset", PRESETS, "online"),
  order: known("order", ORDERS, "latest"),
  where: query.getAll("where").filter((condition) => condition.includes("=")),
  isPaused: false,
  currency: "USD",
};

function remember() {
  const wanted = new URLSearchParams();
  for (const name of ["since", "by", "preset", "order"]) wanted.set(name, state[name]);
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
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Put children into a container; what had the focus keeps it, by its `data-key`. */
function fill(container, ...children) {
  const key = container.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  container.replaceChildren(...children.flat());
  if (key === undefined) return;
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
const stacked = (parts, label) =>
  h("div", { class: "stack", role: "img", "aria-label": label },
    parts.map(([kind, share]) => h("i", { "data-kind": kind, style: { "flex-grow": share, "flex-basis": 0 } })));
const legend = (kinds) => kinds.map(([kind, label]) => h("span", { "data-kind": kind }, label));

// -------------------------------------------------------------------------------------------------------------- figures

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const NONE = "–";

function digits(value, most = 3) {
  const size = Math.abs(value);
  const places = size === 0 ? 0 : Math.max(0, Math.min(6, most - 1 - Math.floor(Math.log10(size))));
  return value.toLocaleString("en", { maximumFractionDigits: places });
}

function seconds(value) {
  if (!isNumber(value)) return NONE;
  const size = Math.abs(value);
  if (size === 0) return "0 s";
  if (size < 1e-3) return `${digits(value * 1e6)} µs`;
  if (size < 1) return `${digits(value * 1e3)} ms`;
  if (size < 120) return `${digits(value)} s`;
  if (size < 7200) return `${digits(value / 60)} min`;
  return size < 172800 ? `${digits(value / 3600)} h` : `${digits(value / 86400)} d`;
}

function scaled(value, unit, base, names) {
  if (!isNumber(value)) return NONE;
  let at = 0;
  while (Math.abs(value) >= base && at < names.length - 1) {
    value /= base;
    at += 1;
  }
  return `${digits(value)} ${names[at]}${unit}`.trim();
}

const bytes = (value) => scaled(value, "B", 1024, ["", "Ki", "Mi", "Gi", "Ti"]);
const count = (value) => (isNumber(value) ? value.toLocaleString("en", { maximumFractionDigits: 0 }) : NONE);
const percent = (value) => (isNumber(value) ? `${digits(value * 100)} %` : NONE);
const number = (value) => (isNumber(value) ? digits(value) : NONE);

function money(value) {
  if (!isNumber(value)) return NONE;
  try {
    const format = new Intl.NumberFormat("en", { style: "currency", currency: state.currency, maximumSignificantDigits: 4 });
    return format.format(value);
  } catch {
    return `${digits(value, 4)} ${state.currency}`; // a currency that is none of ISO 4217's: credits, say
  }
}

const clock = (at_s, withDay) =>
  new Date(at_s * 1000).toLocaleString([], { ...(withDay && { month: "short", day: "numeric" }), hour: "2-digit", minute: "2-digit", ...(!withDay && { second: "2-digit" }) });
const isLongWindow = () => ["24h", "7d"].includes(state.since);

// --------------------------------------------------------------------------------------------------------------- charts

/** A line chart: `lines` are {key, label, kind}; the caption shows the latest values, or those under the pointer. */
class Chart {
  constructor(title, format, lines, isArea = false) {
    Object.assign(this, { title, format, lines, isArea, points: [], at: null });
    this.keys = lines.map((line) => h("b"));
    this.when = h("span", { class: "when" });
    this.plot = svg("svg", { role: "img", tabindex: "0" });
    this.figure = h("figure", { class: "panel chart" },
      h("figcaption", {}, h("h3", {}, title),
        lines.map((line, index) => h("span", { class: `key ${line.kind}` }, `${line.label} `, this.keys[index])), this.when),
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
    const top = niceTop(Math.max(0, ...values));
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
      this.lines.map((line) => this.line(line, x, y)),
      this.cross(x, y, height - bottom));
    this.caption();
  }

  times(x, height) {
    if (!this.points.length) return [];
    const last = this.points.length - 1;
    return [[0, "start"], [last >> 1, "middle"], [last, "end"]].map(([index, anchor]) =>
      svg("text", { x: x(index), y: height - 3, "text-anchor": anchor }, clock(this.points[index].at_s, isLongWindow())));
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
    const shown = this.lines.map((line) => this.format(point ? point[line.key] : latest(line.key)));
    this.lines.forEach((line, index) => { this.keys[index].textContent = shown[index]; });
    this.when.textContent = point ? clock(point.at_s, isLongWindow()) : "";
    const words = this.lines.map((line, index) => `${line.label} ${shown[index]}`).join(", ");
    this.plot.setAttribute("aria-label", `${this.title}: ${words}. Left and right arrows walk through time.`);
  }
}

function niceTop(value) {
  if (value <= 0) return 1;
  const step = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((factor) => factor * step).find((candidate) => candidate >= value * 1.02) ?? 20 * step;
}

const CHARTS = [
  new Chart("Time to first token", seconds, [{ key: "ttft_p50_s", label: "P50", kind: "a" }, { key: "ttft_p99_s", label: "P99", kind: "b" }]),
  new Chart("Between tokens", seconds, [{ key: "itl_p50_s", label: "P50", kind: "a" }, { key: "itl_p99_s", label: "P99", kind: "b" }]),
  new Chart("Tokens per second", number, [{ key: "output_tokens_per_s", label: "out", kind: "c" }, { key: "prompt_tokens_per_s", label: "in", kind: "a" }], true),
  new Chart("Requests per second", number, [{ key: "requests_per_s", label: "all", kind: "a" }, { key: "not_ok_per_s", label: "not ok", kind: "d" }], true),
];

// ------------------------------------------------------------------------------------------------------ table and tiles

const FORMATS = { s: seconds, ms: (value) => seconds(value / 1e3), share: percent, "%": percent, bytes, B: bytes, currency: money, count };

function cellText(value, unit) {
  if (value === null || value === undefined || value === "") return NONE;
  if (!isNumber(value)) return String(value);
  return (FORMATS[unit] ?? number)(value);
}

const isText = (column, rows) => rows.some((row) => typeof row[column.key] === "string");

function drawTable(answer) {
  const { rows, columns } = answer;
  if (!rows.length) {
    fill(byId("rows"), nothingYet());
    return;
  }
  const head = h("thead", {}, h("tr", {}, columns.map((column) =>
    h("th", { scope: "col", title: column.help, class: isText(column, rows) ? "text" : "" }, column.heading, column.unit && h("small", {}, column.unit)))));
  const body = h("tbody", {}, rows.map((row) => h("tr", {}, columns.map((column, index) => {
    const text = cellText(row[column.key], column.unit);
    if (index) return h("td", { class: isText(column, rows) ? "text" : "" }, text);
    return h("th", { scope: "row", title: text }, filterButton(text));
  }))));
  fill(byId("rows"), h("table", {}, head, body));
}

function filterButton(value) {
  const condition = `${state.by}=${value}`;
  return h("button", { class: "link", "data-key": condition, title: `Show ${condition} alone`, onclick: () => filterBy(condition) }, value);
}

function filterBy(condition) {
  const dimension = condition.split("=", 1)[0];
  state.where = [...state.where.filter((each) => !each.startsWith(`${dimension}=`)), condition];
  onAsked();
}

function drawFilters() {
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
  for (const chart of CHARTS) chart.update(answer);
}

// ------------------------------------------------------------------------------------------------------------- requests

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
  const headings = [["ended", ""], ["request", "text"], ["tenant", "text"], ["scenario", "text"], ["outcome", "text"], ["worker", "text"], ["where the time went", "text"], ["first token", ""], ["E2E", ""], ["in", ""], ["cached", ""], ["out", ""], ["cost", ""]];
  fill(container, h("table", {},
    h("thead", {}, h("tr", {}, headings.map(([heading, kind]) => h("th", { scope: "col", class: kind }, heading)))),
    h("tbody", {}, requests.map((request) => requestRow(request, longest_s)))));
}

function requestRow(request, longest_s) {
  const open = () => openExplain(request.id);
  return h("tr", { class: "open", onclick: open },
    h("td", {}, clock(request.ended_s, isLongWindow())),
    h("td", { class: "text" }, h("button", { class: "link mono name", "data-key": request.id, "aria-haspopup": "dialog", title: request.id }, request.id.slice(0, 12))),
    h("td", { class: "text name", title: request.tenant }, request.tenant || NONE),
    h("td", { class: "text" }, request.scenario),
    h("td", { class: "text" }, chip(request.outcome, request.outcome === "ok" ? "good" : "bad")),
    h("td", { class: "text name" }, request.worker || NONE, request.num_legs > 1 && h("span", { class: "soft" }, ` +${request.num_legs - 1}`)),
    h("td", { class: "text" }, stageBar(request, longest_s)),
    h("td", {}, seconds(request.ttft_s)), h("td", {}, seconds(request.e2e_s)),
    h("td", {}, count(request.prompt_tokens)), h("td", {}, count(request.cached_tokens)), h("td", {}, count(request.output_tokens)),
    h("td", {}, money(request.cost)));
}

function stageBar(request, longest_s) {
  const parts = GROUPS.map(([kind, label, stages]) => [kind, stages.reduce((sum, stage) => sum + (request.stages_s[stage] ?? 0), 0), label]).filter(([, value]) => value > 0);
  const words = parts.map(([, value, label]) => `${label} ${seconds(value)}`).join(", ");
  const bar = stacked(parts, words || "no stages");
  bar.title = words;
  bar.style.setProperty("width", `${Math.max(2, (160 * request.e2e_s) / longest_s)}px`);
  bar.style.setProperty("min-width", "0");
  return bar;
}

// ------------------------------------------------------------------------------------------------------ workers and KV

const fact = (term, value, title) => h("div", { title }, h("dt", {}, term), h("dd", {}, value));

function meter(label, value, share, kind) {
  const parts = isNumber(share) ? [[kind, share], ["idle", Math.max(0, 1 - share)]] : [["idle", 1]];
  return h("div", { class: "meter" }, h("div", {}, label, h("b", {}, value)), stacked(parts, `${label}: ${value}`));
}

function drawWorkers(answer) {
  fill(byId("worker-cards"), answer.workers.length ? answer.workers.map(workerCard)
    : h("div", { class: "panel" }, empty("No worker was heard of in this window", "Workers tell what their time goes to every few seconds, once they run.")));
}

function workerCard(worker) {
  const shares = [...Object.entries(worker.step_share), ["between", worker.between_share], ["idle", worker.idle_share]];
  return h("article", { class: "panel card", "aria-label": `Worker ${worker.worker}` },
    h("header", {}, h("h3", {}, worker.worker), h("span", { class: "soft" }, worker.model), worker.is_last && chip("gone", "warn")),
    h("p", { class: "where" }, [worker.device, worker.version && `version ${worker.version}`].filter(Boolean).join(" · ")),
    stacked(shares, shares.map(([kind, share]) => `${kind} ${percent(share)}`).join(", ")),
    h("div", { class: "legend" }, legend(shares.filter(([, share]) => share > 0).map(([kind, share]) => [kind, `${kind} ${percent(share)}`]))),
    meter("KV in use, mean", percent(worker.used_blocks_share), worker.used_blocks_share, "fetch"),
    h("dl", { class: "facts" },
      fact("running", number(worker.running), "Sequences, mean"), fact("waiting", number(worker.waiting), "Sequences, mean"),
      fact("MFU", percent(worker.mfu), "Achieved over peak FLOP/s, while in steps"), fact("MBU", percent(worker.mbu), "Achieved over peak bytes/s, while in steps"),
      fact("CPU", isNumber(worker.cpu_cores) ? `${number(worker.cpu_cores)} cores` : NONE), fact("memory", bytes(worker.rss_bytes)),
      fact("price", isNumber(worker.price_per_hour) ? `${money(worker.price_per_hour)}/h` : "not stated", "Set with --price-per-hour"),
      fact("power", isNumber(worker.watts) ? `${number(worker.watts)} W` : "not stated", worker.is_measured_power ? "Measured" : "Of the card")));
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

function drawCost(answer) {
  const { lines, total, is_priced } = answer;
  state.currency = answer.currency;
  if (!is_priced) {
    fill(byId("bill"), empty("No price is stated", "Time is measured all the same. What it costs is known once a worker has a price:", "tokenworks serve --price-per-hour 0.40"));
    return;
  }
  const most = Math.max(...lines.map((line) => line.amount), 1e-30);
  fill(byId("bill"), h("div", { class: "bill", role: "list", "aria-label": "The bill" },
    lines.map((line) => [
      h("span", { class: "who", role: "listitem" }, line.label),
      h("span", { class: "track", "aria-hidden": "true" }, h("i", { "data-kind": line.kind, style: { width: `${(100 * line.amount) / most}%` } })),
      h("span", { class: "amount" }, money(line.amount), h("span", { class: "soft" }, `  ${percent(total ? line.amount / total : 0)}`))]),
    h("span", { class: "who total" }, "bill"), h("span", { class: "total" }, "\u00a0"), h("span", { class: "amount total" }, money(total))));
}
