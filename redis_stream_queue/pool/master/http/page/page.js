"use strict";
// Shows /status and asks again every 2 s while somebody looks. What others wrote becomes text, never HTML.

const EVERY_MS = 2000, SHOWN_S = 900, WIDTH = 300, HEIGHT = 80;
const TWO_DIGITS = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
const SVG = "http://www.w3.org/2000/svg";
const sections = [];
let held = false, answeredAt = null;

const byId = (id) => document.getElementById(id);

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

// What stays as it was is left alone: somebody may be marking or reading it.
function ofLength(parent, count, make) {
  while (parent.children.length > count) parent.lastElementChild.remove();
  while (parent.children.length < count) parent.append(make());
  return [...parent.children];
}

// A cell: its text, a class, and a second text below it.
const cell = (value, kind = "", below = "") => ({ value: String(value), kind, below });

function makeRow(columns) {
  const row = document.createElement("tr");
  for (let i = 0; i < columns; i++) {
    const made = document.createElement(i ? "td" : "th");
    if (!i) made.scope = "row";
    made.append(document.createElement("span"), document.createElement("div"));
    row.append(made);
  }
  return row;
}

function fill(root, name, rows) {
  const body = root.querySelector(`[data-rows="${name}"]`);
  const columns = body.parentNode.querySelectorAll("thead th").length;
  const cells = rows.length ? rows : [[cell("none"), ...Array(columns - 1).fill(cell(""))]];
  ofLength(body, cells.length, () => makeRow(columns)).forEach((row, i) => {
    cells[i].forEach(({ value, kind, below }, j) => {
      const [text, more] = row.children[j].children;
      setText(text, value);
      setClass(text, kind);
      setText(more, below);
    });
  });
}

function plot(figure, times, values, nowS, show) {
  let svg = figure.querySelector("svg");
  if (!svg) {
    svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.append(document.createElementNS(SVG, "path"));
    const axis = document.createElement("div");
    axis.className = "axis";
    axis.replaceChildren(...["15 min ago", "now"].map((text) => {
      const end = document.createElement("span");
      end.textContent = text;
      return end;
    }));
    figure.querySelector("figcaption").append(document.createElement("span"));
    figure.append(svg, axis);
  }
  const known = values.filter((value) => value !== null);
  const top = Math.max(...known, 0), last = values.length ? values[values.length - 1] : null;
  let path = "", drawing = false;
  values.forEach((value, i) => {
    if (value === null) { drawing = false; return; }
    const x = WIDTH * (1 - (nowS - times[i]) / SHOWN_S);
    const y = HEIGHT - 2 - (HEIGHT - 6) * (top ? value / top : 0);
    const point = `${x.toFixed(1)} ${y.toFixed(1)}`;
    path += drawing ? `L${point}` : `M${point}L${point}`;
    drawing = true;
  });
  svg.firstChild.setAttribute("d", path);
  const words = known.length ? `now ${last === null ? "none" : show(last)}, max ${show(top)}` : "nothing yet";
  setText(figure.querySelector("figcaption span"), words);
  svg.setAttribute("aria-label", `${figure.querySelector("figcaption").firstChild.textContent}: ${words}`);
}

function stateOf(worker, paused) {
  if (worker.state === "busy") return ["busy", "busy"];
  if (worker.state !== "ready") return [worker.state, worker.state === "gone" ? "bad" : ""];
  return paused ? ["paused", ""] : ["idle", "good"];
}

function workerCells(worker, crew, nowS) {
  const s = runningS(worker);
  return [
    cell(worker.slot), cell(...stateOf(worker, crew.paused)),
    cell(s ? span(s) : "-", isLong(worker, crew) ? "bad" : ""),
    cell(`${worker.task} ${worker.message_id}`.trim() || "-"), cell(s ? clock(nowS - s, nowS) : "-"),
    cell(number(worker.acked)), cell(number(worker.errors), worker.errors ? "bad" : ""),
    cell(`${Math.round(worker.memory_mb)} MB`), cell(span(worker.cpu_ms / 1000)), cell(worker.pid || "-"),
  ];
}

function timesOf(name, times) {
  if (!times.count) return `${name}: nothing yet.`;
  return `${name}: mean ${span(times.mean_s)}, half within ${span(times.p50_s)}, 95 % within ` +
    `${span(times.p95_s)}, 99 % within ${span(times.p99_s)}.`;
}

function showCrew(section, crew, nowS) {
  const texts = {
    title: crew.stream ? `${crew.target}: stream ${crew.stream}, group ${crew.group}` : crew.target,
    acked: number(crew.totals.acked), rate: number(crew.totals.acked_per_s),
    lag: number(crew.lag), oldest_waiting: span(crew.oldest_waiting_s),
    pending: number(crew.pending), retry_waiting: number(crew.retry_waiting),
    oldest_pending: span(crew.oldest_pending_s), errors: number(crew.totals.errors),
    retried: number(crew.totals.retried), dead_letters: number(crew.dead_letters), replaced: number(crew.totals.replaced),
    expired: number(crew.totals.expired), uptime: span(crew.uptime_s),
    times: `${timesOf("Handling", crew.handling)} ${timesOf("Waiting", crew.waiting)}`,
    letters_title: `Dead letters in ${crew.dlq_stream || "no stream"}` +
      (crew.letters.length ? `, the newest ${crew.letters.length}` : ""),
    letters_help: crew.letters.length ? `rsq dlq show ${letterArguments(crew)} LETTER tells all of one, ` +
      `rsq dlq requeue ${letterArguments(crew)} LETTER sends it back.` : "",
  };
  for (const [name, text] of Object.entries(texts)) setText(section.querySelector(`[data-text="${name}"]`), text);
  setClass(section, crew.redis.error ? "old-redis" : "");
  setClass(section.querySelector('[data-text="dead_letters"]'), crew.dead_letters ? "bad" : "");
  const { at_s: times } = crew.history;
  for (const figure of section.querySelectorAll("[data-plot]")) {
    const name = figure.dataset.plot;
    plot(figure, times, crew.history[name], nowS, ["handling_s", "waiting_s"].includes(name) ? span : number);
  }
  fill(section, "workers", crew.workers.map((worker) => workerCells(worker, crew, nowS)));
  const tasks = Object.entries(crew.tasks);
  section.querySelector("[data-tasks]").hidden = !tasks.length;
  fill(section, "tasks", tasks.map(([name, task]) => [
    cell(name), cell(number(task.count)), cell(number(task.errors), task.errors ? "bad" : ""),
    ...[task.mean_s, task.p50_s, task.p95_s, task.p99_s].map((s) => cell(task.count ? span(s) : "-")),
    cell(task.waiting.count ? span(task.waiting.p95_s) : "-"),
  ]));
  fill(section, "failures", crew.failures.map((failure) => {
    const { kind, text } = failure, said = text.startsWith(`${kind}: `) ? text.slice(kind.length + 2) : text;
    return [
      cell(kind, "bad", said === kind ? "" : said), cell(number(failure.count)),
      cell(clock(failure.at_ms / 1000, nowS)), cell(failure.entry_id || "-"),
    ];
  }));
  fill(section, "letters", crew.letters.map((letter) => [
    cell(letter.reason, "bad", letter.error), cell(clock(idTime(letter.id), nowS)), cell(letter.id), cell(letter.delivery_count),
  ]));
}

function overviewCells(crew, nowS) {
  const busy = crew.workers.filter((worker) => worker.state === "busy").length, errors = errorsSince(crew, nowS, SHOWN_S);
  return [
    cell(crew.target, "", crew.stream), cell(number(crew.lag)), cell(span(crew.oldest_waiting_s)),
    cell(number(crew.totals.acked_per_s)), cell(`${busy} of ${crew.workers.length}`),
    cell(number(errors), errors ? "bad" : ""), cell(number(crew.dead_letters), crew.dead_letters ? "bad" : ""),
  ];
}

function showTroubles(found) {
  const verdict = found.length ? `${counted(found.length, "thing")} to look at` : "Nothing to look at";
  setText(byId("verdict"), verdict);
  const worst = found.some(({ bad }) => bad) ? "bad" : found.length ? "" : "good";
  setClass(byId("verdict"), worst);
  const rows = ofLength(byId("troubles"), found.length, () => {
    const row = document.createElement("li");
    row.append(...["a", "span", "code"].map((kind) => document.createElement(kind)));
    return row;
  });
  found.forEach(({ crew, words, command, bad }, i) => {
    const [link, text, code] = rows[i].children;
    setText(link, crew === undefined ? "" : sections[crew].dataset.target);
    if (crew !== undefined) link.href = `#crew-${crew}`;
    setText(text, words);
    setClass(text, bad ? "bad" : "");
    setText(code, command);
  });
  return [verdict, worst];
}

function showIcon(worst) {
  const color = { bad: "%23d02525", good: "%2322a04f" }[worst] || "%23888888";
  const icon = `data:image/svg+xml,<svg xmlns='${SVG}' viewBox='0 0 8 8'><circle cx='4' cy='4' r='4' fill='${color}'/></svg>`;
  if (byId("icon").href !== icon) byId("icon").href = icon;
}

function show(status) {
  const nowS = status.now_s, zone = new Date(nowS * 1000).toLocaleTimeString("en-GB", { ...TWO_DIGITS, timeZoneName: "short" });
  const several = status.crews.length > 1;
  setText(byId("where"), `${status.host}, pid ${status.pid}, version ${status.version}`);
  setText(byId("state"), status.state);
  setClass(byId("state"), `state ${status.state === "running" ? "good" : "bad"}`);
  setText(byId("asked"), `as of ${zone}`);
  ofLength(byId("crews"), status.crews.length, () => byId("crew").content.firstElementChild.cloneNode(true))
    .forEach((section, i) => {
      sections[i] = section;
      section.id = `crew-${i}`;
      section.dataset.target = several ? status.crews[i].target : "";
      showCrew(section, status.crews[i], nowS);
    });
  byId("overview").hidden = !several;
  if (several) fill(document, "overview", status.crews.map((crew) => overviewCells(crew, nowS)));
  const found = status.crews.flatMap((crew, i) => troublesOf(crew, nowS).map((trouble) => ({ ...trouble, crew: i })));
  const [verdict, worst] = showTroubles([...troublesOfPool(status), ...found]);
  showIcon(worst);
  document.title = `${verdict}: rsq-pool on ${status.host}, ${status.state}`;
}

function showSilence(error) {
  const since = answeredAt ? ` since ${clock(answeredAt, Date.now() / 1000)}` : "";
  setText(byId("state"), "no answer");
  setClass(byId("state"), "state bad");
  const words = `The pool does not answer${since} (${error.message}).${answeredAt ? " What is below is old." : ""}`;
  showTroubles([{ words, command: "", bad: true }]);
  setText(byId("verdict"), "No answer");
  showIcon("bad");
  document.title = `No answer: rsq-pool ${byId("where").textContent}`;
}

async function ask() {
  try {
    const answer = await fetch("status", { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`it says ${answer.status}`);
    const status = await answer.json();
    answeredAt = Date.now() / 1000;
    if (held) return;
    setClass(document.body, "");
    show(status);
  } catch (error) {
    setClass(document.body, "old");
    showSilence(error);
  }
}

async function tick() {
  if (!held && !document.hidden) await ask();
  setTimeout(tick, EVERY_MS);
}

byId("hold").addEventListener("click", () => {
  held = !held;
  byId("hold").setAttribute("aria-pressed", held);
  setClass(document.body, held ? "old" : "");
  if (!held) return ask();
  setText(byId("state"), "held still,");
  setClass(byId("state"), "state bad");
});
document.addEventListener("visibilitychange", () => {
  if (!held && !document.hidden) ask();
});
tick();
