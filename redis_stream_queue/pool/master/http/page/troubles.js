"use strict";
// What somebody should look at, out of /status: pure. And how numbers, times and names are written.

const LONG_S = 60, RECENT_S = 300, NEW_LETTER_S = 900, MOST_SHOWN = 120;

const number = (n) => n === null ? "unknown" : n.toLocaleString("en", { maximumFractionDigits: 1 });
const idTime = (id) => Number(id.split("-")[0]) / 1000;

function counted(n, what) {
  return `${number(n)} ${what}${n === 1 ? "" : "s"}`;
}

function span(s) {
  if (s === null) return "unknown";
  if (s === 0) return "none";
  if (s < 1) return `${Math.max(1, Math.round(s * 1000))} ms`;
  if (s < 120) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
  return `${Math.floor(s / 86400)} days`;
}

const shortened = (text) => text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}…` : text;

// A moment, in s since the epoch: with its date, if that is another day than now.
function clock(s, nowS) {
  const at = new Date(s * 1000);
  const sameDay = at.toDateString() === new Date(nowS * 1000).toDateString();
  return sameDay ? at.toLocaleTimeString("en-GB") : at.toLocaleString("sv");
}

// A name as an argument of a shell's command.
function quoted(name) {
  return /^[\w.:@%+=,/-]+$/.test(name) && !name.startsWith("-") ? name : `'${name.replaceAll("'", "'\\''")}'`;
}

function letterArguments(crew) {
  const { stream, dlq_stream: dlq } = crew, usual = [`${stream}_dlq`, `{${stream}}_dlq`].includes(dlq);
  return quoted(stream) + (usual ? "" : ` --dlq-stream ${quoted(dlq)}`);
}

// How many errors there were in the last so many seconds.
function errorsSince(crew, nowS, lastS) {
  const { at_s: times, errors } = crew.history;
  return errors.reduce((sum, count, i) => nowS - times[i] < lastS ? sum + count : sum, 0);
}

const runningS = (worker) => (worker.message_ms || worker.busy_ms) / 1000;

// Longer than a minute, and than three times what nearly all others took.
function isLong(worker, crew) {
  return runningS(worker) > Math.max(LONG_S, 3 * (crew.handling.p99_s || 0));
}

// Each { words, bad, command }; bad: it is wrong now. command: what tells more, or ends it.
function troublesOf(crew, nowS) {
  const { error } = crew.redis, name = quoted(crew.stream), found = [];
  const add = (words, command = "", bad = true) => found.push({ words, command, bad });
  if (!crew.stream) add("No worker has loaded the app yet.");
  if (crew.paused) add("Paused: nothing is started for this group.", `rsq resume ${name}`);
  const missing = crew.workers.filter((worker) => worker.state === "gone").length;
  if (missing) add(`${number(missing)} of ${counted(crew.workers.length, "worker")} not there: they end, and are started again.`);
  if (!error && crew.oldest_waiting_s > LONG_S) {
    add(`${crew.lag === null ? "Messages wait" : `${counted(crew.lag, "message")} not started`}, the oldest for ${span(crew.oldest_waiting_s)}.`,
      `rsq running ${name}`);
  }
  const long = crew.workers.filter((worker) => isLong(worker, crew)).sort((a, b) => runningS(b) - runningS(a));
  if (long.length) {
    const [{ slot, message_id: id, pid }] = long;
    const others = long.length > 1 ? `, and ${counted(long.length - 1, "other")} for long` : "";
    add(`Slot ${slot} (pid ${pid}) has been running ${id || "something"} for ${span(runningS(long[0]))}${others}.`,
      id && `rsq show ${name} ${id}`, false);
  }
  const errors = errorsSince(crew, nowS, RECENT_S);
  if (errors) {
    const [last] = crew.failures;
    add(`${counted(errors, "error")} in the last 5 min${last ? `, the last one: ${shortened(last.text)}` : "."}`);
  }
  if (!error && crew.dead_letters) {
    const [newest] = crew.letters, at = newest ? idTime(newest.id) : 0;
    add(`${counted(crew.dead_letters, "dead letter")}${newest ? `, the newest of ${clock(at, nowS)}: ${newest.reason}` : ""}.`,
      `rsq dlq list ${letterArguments(crew)}`, nowS - at < NEW_LETTER_S);
  }
  return found;
}

// Of all crews: they have one Redis, and one reload.
function troublesOfPool(status) {
  const { failed_why: why, failed_s: failedS } = status.reloads, at = (s) => clock(s, status.now_s), found = [];
  const silent = status.crews.map((crew) => crew.redis).find(({ error }) => error);
  const add = (words, command = "") => found.push({ words, command, bad: true });
  if (silent) {
    const seen = silent.asked_s ? ` Numbers from Redis are those of ${at(silent.asked_s)}.` : "";
    add(`Redis does not answer since ${at(silent.since_s)}: ${silent.error.replace(/\.$/, "")}.${seen}`);
  } else if (status.redis_error) {
    add(`Redis refuses: ${status.redis_error}.`, "rsq doctor");
  }
  if (why) add(`The reload of ${at(failedS)} failed, the old code still runs: ${why}`);
  return found;
}
