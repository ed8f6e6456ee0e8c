
// The parts of the page, each made anew from the state. What has not changed is left alone, so that a selection, the
// place in a scrolled list and the focus stay.

const MOST_ENDPOINTS = 20;

function redraw(id, key, draw) {
  const box = document.getElementById(id);
  const text = JSON.stringify(key);
  if (box.dataset.key === text) return;
  const copy = fresh(box.tagName.toLowerCase(), {});
  draw(copy);
  box.replaceChildren(...copy.childNodes);
  box.dataset.key = text;
}

function endpointTrouble(one) {
  if (one.healthy === false) return "down";
  if (one.breaker === "open") return "breaker open";
  if (one.ejected) return "set aside";
  if (one.breaker === "half_open") return "breaker on trial";
  return null;
}

// What is wrong, the worst first: each thing in short, and what it rests on.
function judge(state) {
  const bad = [];
  const warn = [];
  if (!state.ready && state.draining) warn.push(["Charon is finishing what is under way, and takes nothing new"]);
  else if (!state.ready) bad.push(["Charon does not serve", state.not_ready_because]);
  for (const [service, endpoints] of Object.entries(state.services)) {
    const troubled = endpoints.map((one) => [one.endpoint, endpointTrouble(one)]).filter((pair) => pair[1]);
    const named = troubled.slice(0, 3).map(([name, what]) => `${name} ${what}`).join(", ") + (troubled.length > 3 ? ", …" : "");
    if (!endpoints.length) warn.push([`the service ${service} has no endpoint`]);
    else if (troubled.length === endpoints.length) bad.push([`the service ${service} cannot be reached`, named]);
    else if (troubled.length) warn.push([`the service ${service} runs on ${endpoints.length - troubled.length} of ${counted(endpoints.length, "endpoint")}`, named]);
  }
  for (const one of state.workers) {
    if (one.crash_loop) bad.push([`worker ${one.slot} dies again and again`, "its last words are in the log"]);
    if (one.paused) bad.push([`worker ${one.slot} accepts no connections`, `there is no ${one.paused} left`]);
    else if ((one.overloaded || []).length) warn.push([`worker ${one.slot} turns work away`, `too much: ${one.overloaded.join(", ")}`]);
  }
  const traffic = state.traffic;
  if (traffic.error_rate >= 0.05 && traffic.errors_per_second >= 0.1) {
    (traffic.error_rate >= 0.5 ? bad : warn).push([`${percent(traffic.error_rate)} of all requests are answered with an error`]);
  }
  if (state.interception && state.interception.trouble) bad.push(["interception is in trouble", state.interception.trouble]);
  if (state.last_reload.ok === false) warn.push(["the last reload was refused", state.last_reload.problems[0]]);
  if (state.registry && !state.registry.ok) warn.push(["the registry file cannot be used", state.registry.problems[0]]);
  for (const one of state.certificates) {
    const name = `the ${one.kind} ${one.name}`;
    if (one.days_left <= 0) bad.push([`${name} has expired`, one.problem]);
    else if (one.problem) warn.push([`${name} has a problem`, one.problem]);
    else if (one.days_left < 0.25) warn.push([`${name} expires in ${duration(one.days_left * 86400)}`]);
  }
  const level = bad.length ? "bad" : warn.length ? "warn" : "good";
  return {level, found: [...bad, ...warn]};
}

// All of that in one sentence, and the rest of it as a list.
function drawVerdict(state) {
  const {level, found} = judge(state);
  const box = document.getElementById("verdict");
  if (box.className !== `verdict ${level}`) box.className = `verdict ${level}`;
  const first = found.length ? found[0][0] : "all is well";
  const more = found.length - 1;
  const rest = more > 0 ? `, and ${counted(more, "more thing")} ${more === 1 ? "needs" : "need"} attention` : "";
  const sentence = `${first[0].toUpperCase()}${first.slice(1)}${rest}.`;
  const lines = found.map(([what, why], index) => (index ? why ? `${what}: ${why}` : what : why)).filter(Boolean);
  redraw("sentence", sentence, (into) => into.append(sentence));
  redraw("reasons", lines, (list) => lines.slice(0, 8).forEach((text) => put(list, "li", {text})));
  document.title = `Charon: ${level === "good" ? "all is well" : sentence}`;
  const about = `${state.version} · pid ${state.pid} · up ${duration(state.uptime_seconds)}`;
  redraw("about", about, (into) => into.append(about));
}

function drawTiles(state) {
  const traffic = state.traffic;
  const tile = (into, title, big, unit, more, tone) => {
    const box = put(into, "div", {class: "tile"});
    put(box, "h3", {text: title});
    const line = put(box, "p", {class: `big ${tone || ""}`, text: big});
    if (unit) put(line, "small", {text: unit});
    if (more) put(box, "p", {class: "more", text: more});
    return box;
  };
  redraw("tiles", [traffic, state.connections, state.draining_connections], (into) => {
    const classes = Object.entries(traffic.answers_per_second).filter((pair) => pair[1]);
    const requests = tile(into, "Requests", rate(traffic.requests_per_second), "a second",
      classes.map(([name, value]) => `${name} ${rate(value)}`).join(" · ") || "none in the last seconds");
    sparkline(requests, traffic.history, "requests a second over the last minute, and errors among them");
    const latency = traffic.latency_ms;
    const times = tile(into, "Latency", latency ? milliseconds(latency.p50) : "–", latency ? "median" : "",
      latency ? `90 % ${milliseconds(latency.p90)} · 99 % ${milliseconds(latency.p99)}` : "no requests");
    latencyRange(times, latency).lastChild.remove();
    const tone = traffic.error_rate >= 0.5 ? "bad-text" : traffic.error_rate >= 0.01 ? "warn-text" : "";
    tile(into, "Errors", percent(traffic.error_rate), "", `${rate(traffic.errors_per_second)} a second`, tone);
    const budgets = traffic.retry_budgets_exhausted.length ? "; the budget is used up" : "";
    const limits = traffic.limits_hit.slice(0, 3).map((one) => `${one.route} ${rate(one.per_second)}/s`).join(", ");
    tile(into, "Held back", rate(traffic.rate_limited_per_second), "over limits",
      `${rate(traffic.retries_per_second)} retries a second${budgets}${limits ? `; ${limits}` : ""}`, traffic.rate_limited_per_second ? "warn-text" : "");
    tile(into, "Connections", state.connections.toLocaleString("en"), "open",
      `${rate(traffic.tcp_connections_per_second)} relayed a second${state.draining_connections ? `; ${state.draining_connections} to finish` : ""}`);
  });
}

function states(parent, one) {
  const box = put(parent, "div", {class: "states"});
  const say = (tone, text) => put(box, "span", {class: `state ${tone}`, text});
  if (one.healthy === false) say("bad", "down");
  if (one.breaker === "open") say("bad", "breaker open");
  if (one.breaker === "half_open") say("warn", "breaker on trial");
  if (one.ejected) say("warn", "set aside");
  if (!endpointTrouble(one)) say(one.healthy ? "good" : "", one.healthy ? "up" : "not probed");
}

// The endpoints to show, where there are very many: those with something to say first.
function foremost(endpoints) {
  if (endpoints.length <= MOST_ENDPOINTS) return endpoints;
  const weight = (one) => (endpointTrouble(one) ? 0 : one.requests_per_second ? 1 : 2);
  return [...endpoints].sort((one, other) => weight(one) - weight(other)).slice(0, MOST_ENDPOINTS);
}

function drawServices(state, wanted) {
  const hit = ([name, endpoints]) => !wanted || name.toLowerCase().includes(wanted) || endpoints.some((one) => one.endpoint.toLowerCase().includes(wanted));
  const shown = Object.entries(state.services).filter(hit);
  const total = state.services_total;
  const note = wanted ? `${shown.length} of ${total}` : shown.length < total ? `${shown.length} of ${total}, those with news first` : counted(total, "service");
  redraw("services-note", note, (into) => into.append(note));
  redraw("services", shown, (into) => {
    if (!shown.length) put(into, "p", {class: "service none", text: wanted ? "None of that name." : "There are no services."});
    else heads(into);
    for (const [name, endpoints] of shown) {
      const box = put(into, "article", {class: "service", "data-service": name});
      const head = put(box, "header");
      put(head, "h3", {text: name});
      const well = endpoints.filter((one) => !endpointTrouble(one)).length;
      put(head, "p", {class: "faint", text: well === endpoints.length ? counted(well, "endpoint") : `${well} of ${counted(endpoints.length, "endpoint")} well`});
      put(head, "p", {class: "faint sum", text: `${rate(endpoints.reduce((sum, one) => sum + one.requests_per_second, 0))} requests a second`});
      if (!endpoints.length) put(box, "p", {class: "none", text: "The registry gives it no address."});
      const some = foremost(endpoints);
      some.forEach((one) => endpoint(box, one));
      if (some.length < endpoints.length) put(box, "p", {class: "none", text: `and ${endpoints.length - some.length} more`});
    }
  });
}

function heads(parent) {
  const row = put(parent, "div", {class: "heads", "aria-hidden": "true"});
  for (const [text, kind] of [["endpoint", ""], ["state", ""], ["requests/s", "num"], ["errors", "num"], ["in flight", "num"], ["latency: median · 99 %", "num"], ["last minute", "num"]]) {
    put(row, "span", {class: kind, text});
  }
}

function endpoint(parent, one) {
  const row = put(parent, "div", {class: "endpoint", role: "group", "aria-label": one.endpoint});
  put(row, "span", {class: "mono", text: one.endpoint});
  states(row, one);
  const cell = (label, text, tone) => {
    const box = put(row, "div", {class: `num ${tone || ""}`});
    put(box, "span", {class: "label", text: label});
    box.append(text);
  };
  cell("requests/s", rate(one.requests_per_second));
  cell("errors", percent(one.error_rate), one.error_rate >= 0.5 ? "bad-text" : one.error_rate >= 0.01 ? "warn-text" : "");
  cell("in flight", String(one.in_flight));
  latencyRange(row, one.latency_ms);
  sparkline(put(row, "div", {class: "plotted"}), one.history, "requests a second over the last minute");
}
