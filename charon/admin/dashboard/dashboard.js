
// The rest of the page, and the loop that keeps it fresh.

const PERIOD = 1000;
const SERVICES = 100;
const KEPT = 200;
const TOKEN = "charon-token";
const SHOWN_ELSEWHERE = ["id", "timestamp", "level", "message", "repeated", "method", "path", "status", "reason", "upstream"];
const HIDDEN_FIELDS = new Set([...SHOWN_ELSEWHERE, "caller", "worker", "size_bytes", "bytes_in", "bytes_out", "protocol", "span_id"]);

const page = {state: null, seen: 0, problems: [], paused: false, at: 0, timer: null, wanted: ""};

function table(into, columns, rows) {
  const made = put(into, "table");
  const head = put(put(made, "thead"), "tr");
  columns.forEach(([title, kind]) => put(head, "th", {class: kind, scope: "col", text: title}));
  const body = put(made, "tbody");
  for (const row of rows) {
    const line = put(body, "tr");
    row.forEach((value, index) => {
      const cell = put(line, "td", {class: columns[index][1]});
      if (value && typeof value === "object") put(cell, "span", {class: `state ${value.tone}`, text: value.text});
      else cell.textContent = value;
    });
  }
}

function drawListeners(state) {
  redraw("listeners", state.listeners, (into) => table(into,
    [["name", ""], ["address", "mono"], ["protocol", ""], ["connections", "num"], ["requests/s", "num"], ["errors", "num"], ["in", "num"], ["out", "num"]],
    state.listeners.map((one) => [
      one.name, one.address, one.tls ? `${one.protocol}, TLS` : one.protocol, one.connections.toLocaleString("en"), rate(one.requests_per_second),
      percent(one.error_rate), `${bytes(one.received_bytes_per_second)}/s`, `${bytes(one.sent_bytes_per_second)}/s`,
    ])));
}

function drawWorkers(state) {
  redraw("workers", [state.workers, state.generation], (into) => table(into,
    [["slot", ""], ["state", ""], ["pid", "num"], ["connections", "num"], ["deaths", "num"]],
    state.workers.map((one) => [
      String(one.slot),
      one.crash_loop ? {tone: "bad", text: "crash loop"} : !one.ready ? {tone: "warn", text: "starting"}
        : one.paused ? {tone: "bad", text: `no ${one.paused} left`}
        : (one.overloaded || []).length ? {tone: "warn", text: `overloaded: ${one.overloaded.join(", ")}`}
        : one.generation < state.generation ? {tone: "warn", text: "behind"} : {tone: "good", text: "ready"},
      one.pid === null ? "–" : String(one.pid), String(one.connections || 0), String(one.deaths),
    ])));
}

function when(seconds) {
  return seconds ? new Date(seconds * 1000).toLocaleString("sv") : "never";
}

function drawChange(state) {
  const reload = state.last_reload;
  const key = [reload, state.last_upgrade, state.registry, state.config_file, state.config_digest, state.generation, state.log];
  redraw("change", key, (into) => {
    const row = (title, ...lines) => {
      put(into, "dt", {text: title});
      const cell = put(into, "dd");
      lines.forEach(([text, tone]) => put(cell, "div", {class: tone, text}));
    };
    row("file", [state.config_file, "mono"], [`${state.config_digest}, generation ${state.generation}`, "faint"]);
    if (reload.ok === undefined) row("last reload", ["none since the start", "faint"]);
    else row("last reload", [`${when(reload.at)}: ${reload.ok ? "in force" : "refused"}`, reload.ok ? "" : "bad-text"], ...reload.problems.map((text) => [text, "mono"]));
    if (state.registry) row("registry", [state.registry.file, "mono"], [`loaded ${when(state.registry.loaded_at)}`, "faint"], ...state.registry.problems.map((text) => [text, "bad-text"]));
    if (state.last_upgrade.ok === false) row("last upgrade", [`${when(state.last_upgrade.at)}: ${state.last_upgrade.problem}`, "bad-text"]);
    const log = state.log;
    const lost = log.lines_dropped || log.write_errors ? [[`${counted(log.lines_dropped, "line")} dropped, ${counted(log.write_errors, "failure")} to write`, "bad-text"]] : [];
    row("log", [log.file || "standard output", "mono"], [`level ${log.level}`, "faint"], ...lost);
  });
}

function drawCertificates(state) {
  const days = (one) => one.days_left <= 0 ? {tone: "bad", text: "expired"}
    : {tone: one.days_left < 0.25 || one.problem || one.warnings.length ? "warn" : "good", text: one.days_left < 2 ? duration(one.days_left * 86400) : `${Math.floor(one.days_left)} days`};
  const key = state.certificates.map((one) => [one.name, one.kind, one.identity, one.file, one.not_after, days(one).text, one.problem, one.warnings]);
  redraw("certificates", key, (into) => {
    if (!state.certificates.length) put(into, "p", {class: "none", text: "None is in use."});
    else table(into, [["name", "wide"], ["kind", ""], ["identity", "mono wide"], ["left", ""], ["expires", ""], ["", "wide"]],
      state.certificates.map((one) => [one.name, one.kind, one.identity || "–", days(one), when(one.not_after), one.problem || one.warnings.join("; ")]));
  });
}

function drawProblems() {
  const list = document.getElementById("problems");
  list.replaceChildren();
  if (!page.problems.length) put(list, "li", {class: "none", text: "Nothing of late."});
  for (const one of page.problems) {
    const line = put(list, "li", {class: one.level === "error" ? "error" : ""});
    put(line, "time", {datetime: one.timestamp, text: String(one.timestamp).slice(11, 19), title: one.timestamp});
    put(line, "span", {class: "what", text: one.reason && one.message === "http_request" ? one.reason : one.message});
    const how = put(line, "span", {class: "how"});
    const lead = [one.method, one.path, one.status, one.message === "http_request" ? null : one.reason].filter((part) => part !== undefined && part !== null && part !== "");
    how.append(lead.join(" "));
    if (one.upstream && one.upstream !== "none") how.append(`${lead.length ? " → " : ""}${one.upstream}`);
    for (const [key, value] of Object.entries(one)) {
      if (HIDDEN_FIELDS.has(key) || (key === "retries" && !value) || value === "") continue;
      put(how, "b", {text: ` ${key} `});
      how.append(typeof value === "object" ? JSON.stringify(value) : String(value));
    }
    if (one.repeated) put(how, "b", {text: ` and ${one.repeated} more in that second`});
  }
}

function draw() {
  const state = page.state;
  document.getElementById("main").hidden = false;
  drawVerdict(state);
  drawTiles(state);
  drawServices(state, page.wanted);
  drawListeners(state);
  drawWorkers(state);
  drawChange(state);
  drawCertificates(state);
}

class NeedsToken extends Error {}

async function ask(path) {
  const token = sessionStorage.getItem(TOKEN);
  const answer = await fetch(path, {headers: token ? {Authorization: `Bearer ${token}`} : {}, cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(10000)});
  if (answer.status === 401) throw new NeedsToken();
  if (!answer.ok) throw new Error((await answer.json()).error || `status ${answer.status}`);
  return answer.json();
}

async function refresh() {
  const state = await ask(`/api/status?history=true&services=${SERVICES}`);
  if (state.last_problem < page.seen) page.seen = 0; // it was started anew
  if (state.last_problem > page.seen && !page.paused) {
    const found = await ask(`/api/problems?after=${page.seen}`);
    page.seen = found.last;
    page.problems = [...found.problems.reverse(), ...page.problems].slice(0, KEPT);
    drawProblems();
  }
  page.state = state;
  page.at = Date.now();
  draw();
}

function showLogin(wanted) {
  const form = document.getElementById("login");
  if (form.hidden === !wanted) return;
  form.hidden = !wanted;
  document.querySelector("body > header .verdict").hidden = wanted;
  if (wanted) {
    document.getElementById("main").hidden = true;
    document.getElementById("token").focus();
  }
}

async function loop() {
  clearTimeout(page.timer);
  let note = "";
  try {
    await refresh();
    showLogin(false);
  } catch (error) {
    if (error instanceof NeedsToken) {
      const tried = sessionStorage.getItem(TOKEN);
      sessionStorage.removeItem(TOKEN);
      showLogin(true);
      if (tried) document.getElementById("login-note").textContent = "That is not a token that Charon knows.";
      return; // the form goes on from here
    }
    note = page.at ? `no answer since ${new Date(page.at).toLocaleTimeString("sv")}` : "no answer";
    if (!page.at) redraw("sentence", note, (into) => into.append("Charon does not answer."));
    else document.title = "Charon: no answer";
  }
  document.body.classList.toggle("stale", Boolean(note));
  document.getElementById("freshness").textContent = note || `as of ${new Date(page.at).toLocaleTimeString("sv")}`;
  page.timer = setTimeout(loop, document.hidden ? 10 * PERIOD : PERIOD);
}

document.getElementById("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = document.getElementById("token");
  sessionStorage.setItem(TOKEN, field.value.trim());
  field.value = "";
  loop();
});
document.getElementById("find").addEventListener("input", (event) => {
  page.wanted = event.target.value.trim().toLowerCase();
  if (page.state) draw();
});
document.getElementById("pause").addEventListener("click", (event) => {
  page.paused = !page.paused;
  event.target.setAttribute("aria-pressed", String(page.paused));
  event.target.textContent = page.paused ? "Go on" : "Pause";
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && page.timer) loop(); });
drawProblems();
loop();
