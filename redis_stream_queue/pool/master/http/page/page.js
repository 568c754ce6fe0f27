"use strict";
// Shows /status and asks again every 2 s while somebody looks. What others wrote becomes text, never HTML.

const EVERY_MS = 2000, SHOWN_S = 900, WIDTH = 300, HEIGHT = 80;
const SVG = "http://www.w3.org/2000/svg";
const sections = [];
let held = false, answeredAt = null;

const byId = (id) => document.getElementById(id);
const number = (n) => n === null ? "unknown" : n.toLocaleString("en", { maximumFractionDigits: 1 });
const clock = (s) => new Date(s * 1000).toLocaleTimeString("en-GB");
const idTime = (id) => new Date(Number(id.split("-")[0])).toLocaleString("sv");

function span(s) {
  if (s === null) return "unknown";
  if (s === 0) return "none";
  if (s < 1) return `${Math.max(1, Math.round(s * 1000))} ms`;
  if (s < 120) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
  return `${Math.floor(s / 86400)} days`;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setNotice(node, text) {
  setText(node, text);
  node.hidden = !text;
}

function cell(value, kind) {
  const td = document.createElement("td");
  td.textContent = value;
  if (kind) td.className = kind;
  return td;
}

function fill(section, name, rows, nothing) {
  const body = section.querySelector(`[data-rows="${name}"]`);
  const columns = body.parentNode.querySelectorAll("thead th").length;
  const made = rows.map((cells) => {
    const row = document.createElement("tr"), head = document.createElement("th");
    head.scope = "row";
    head.className = cells[0].className;
    head.textContent = cells[0].textContent;
    row.append(head, ...cells.slice(1));
    return row;
  });
  if (!made.length) {
    const row = document.createElement("tr"), empty = cell(nothing);
    empty.colSpan = columns;
    row.append(empty);
    made.push(row);
  }
  body.replaceChildren(...made);
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
  if (worker.busy_ms) return ["busy", "busy"];
  if (worker.state !== "ready") return [worker.state, worker.state === "gone" ? "bad" : ""];
  return paused ? ["paused", ""] : ["idle", "good"];
}

function workerCells(worker, paused, nowS) {
  const ms = worker.message_ms || worker.busy_ms;
  return [
    cell(worker.slot), cell(...stateOf(worker, paused)), cell(`${worker.task} ${worker.message_id}`.trim() || "-"),
    cell(ms ? clock(nowS - ms / 1000) : "-"), cell(ms ? span(ms / 1000) : "-"),
    cell(number(worker.acked)), cell(number(worker.errors), worker.errors ? "bad" : ""),
    cell(`${Math.round(worker.memory_mb)} MB`), cell(span(worker.cpu_ms / 1000)), cell(worker.pid || "-"),
  ];
}

function noticeOf(crew, nowS) {
  const { error, since_s: sinceS, asked_s: askedS } = crew.redis;
  if (error) {
    const seen = askedS ? ` Numbers from Redis are those of ${clock(askedS)}.` : "";
    return `Redis does not answer since ${clock(sinceS)}: ${error}.${seen}`;
  }
  if (crew.paused) return "Paused: nothing is started for this group until rsq resume " + crew.stream + ".";
  return crew.stream ? "" : "No worker has loaded the app yet.";
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
    letters_help: crew.letters.length ? `rsq dlq show ${crew.stream} LETTER tells all of one, ` +
      `rsq dlq requeue ${crew.stream} LETTER sends it back.` : "",
  };
  for (const [name, text] of Object.entries(texts)) setText(section.querySelector(`[data-text="${name}"]`), text);
  setNotice(section.querySelector('[data-text="notice"]'), noticeOf(crew, nowS));
  const { at_s: times } = crew.history;
  for (const figure of section.querySelectorAll("[data-plot]")) {
    const name = figure.dataset.plot;
    plot(figure, times, crew.history[name], nowS, name.endsWith("_s") && name !== "acked_per_s" ? span : number);
  }
  fill(section, "workers", crew.workers.map((worker) => workerCells(worker, crew.paused, nowS)), "none");
  const tasks = Object.entries(crew.tasks);
  section.querySelector("[data-tasks]").hidden = !tasks.length;
  fill(section, "tasks", tasks.map(([name, task]) => [
    cell(name), cell(number(task.count)), cell(number(task.errors), task.errors ? "bad" : ""),
    ...[task.mean_s, task.p50_s, task.p95_s, task.p99_s].map((s) => cell(task.count ? span(s) : "-")),
  ]), "none");
  fill(section, "failures", crew.failures.map((failure) => [
    cell(failure.kind, "bad"), cell(number(failure.count)), cell(clock(failure.at_ms / 1000)),
    cell(failure.entry_id || "-"), cell(failure.text),
  ]), "none");
  fill(section, "letters", crew.letters.map((letter) => [
    cell(letter.id), cell(idTime(letter.id)), cell(letter.reason, "bad"), cell(letter.delivery_count), cell(letter.error),
  ]), "none");
}

function show(status) {
  setText(byId("where"), `${status.host}, pid ${status.pid}, version ${status.version}`);
  setText(byId("state"), status.state);
  byId("state").className = `state ${status.state === "running" ? "good" : "bad"}`;
  setText(byId("asked"), `as of ${clock(status.now_s)}`);
  document.title = `${status.state}: rsq-pool on ${status.host}`;
  status.crews.forEach((crew, i) => {
    if (!sections[i]) {
      byId("crews").append(byId("crew").content.cloneNode(true));
      sections[i] = byId("crews").lastElementChild;
    }
    showCrew(sections[i], crew, status.now_s);
  });
}

async function ask() {
  try {
    const answer = await fetch("status", { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`it says ${answer.status}`);
    show(await answer.json());
    answeredAt = Date.now() / 1000;
    setNotice(byId("notice"), "");
  } catch (error) {
    const since = answeredAt ? ` since ${clock(answeredAt)}` : "";
    setNotice(byId("notice"), `The pool does not answer${since} (${error.message}). What is below is old.`);
  }
}

async function tick() {
  if (!held && !document.hidden) await ask();
  setTimeout(tick, EVERY_MS);
}

byId("hold").addEventListener("click", () => {
  held = !held;
  setText(byId("hold"), held ? "Go on" : "Hold still");
});
tick();
